"""Importing the package leaves logging as it was, that of other libraries above all."""

from __future__ import annotations

import subprocess
import sys

import pytest

# All that we log through, or that logs by itself.
BEFORE = "asyncio, concurrent.futures, hvac, psycopg, psycopg_pool, requests, urllib3, watchdog"

SCRIPT = f"""
import importlib, logging, pkgutil
import {BEFORE}
import ephemeral_creds

def loggers():
    names = [n for n in logging.root.manager.loggerDict if not n.startswith("ephemeral_creds")]
    return {{
        logger.name: (
            logger.level, logger.propagate, logger.disabled, logger.filters[:], logger.handlers[:]
        )
        for logger in [logging.root, *map(logging.getLogger, names)]
    }}

def everything():
    return logging.raiseExceptions, logging.lastResort, logging.getLoggerClass(), loggers()

assert "psycopg.pool" in logging.root.manager.loggerDict
before = everything()
for module in pkgutil.walk_packages(ephemeral_creds.__path__, "ephemeral_creds."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # An optional package, which is not installed in each of the environments.
            assert not error.name.startswith("ephemeral_creds"), error
        except Exception as error:
            # Django's word for a library of the system that is not installed.
            assert "GDAL" in str(error), error
*_, after = everything()
changed = {{name for name, state in after.items() if before[-1].get(name, state) != state}}
assert not changed, changed
assert everything()[:-1] == before[:-1]
ours = logging.getLogger("ephemeral_creds")
assert (ours.level, ours.handlers, ours.filters) == (logging.NOTSET, [], [])
"""


@pytest.mark.slow
def test_importing_all_modules_changes_no_logger() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
