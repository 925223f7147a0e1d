"""A library that is not installed."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from ephemeral_creds.contrib._missing import missing


def test_the_error_names_the_extra() -> None:
    error = missing(ModuleNotFoundError("No module named 'asyncpg'", name="asyncpg"), "asyncpg")
    assert str(error) == (
        "ephemeral_creds.contrib.asyncpg needs asyncpg: pip install 'ephemeral-creds[asyncpg]'"
    )
    assert error.name == "asyncpg"


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("prometheus", "prometheus_client"),
        ("opentelemetry", "opentelemetry"),
        ("structlog", "structlog"),
    ],
)
def test_a_module_without_its_library_names_the_extra(
    module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name == library or name.startswith(f"{library}."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    full_name = f"ephemeral_creds.contrib.{module}"
    monkeypatch.delitem(sys.modules, full_name, raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'ephemeral-creds\[{module}\]'"):
        importlib.import_module(full_name)


WITHOUT_GREENLET = """
import sys
sys.modules["greenlet"] = None
import sqlalchemy
from ephemeral_creds import FixedProvider, RotatingConnectionPool
from ephemeral_creds.contrib.sqlalchemy import attach, create_engine
provider = FixedProvider("user", "password")
engine = sqlalchemy.create_engine("postgresql+psycopg://127.0.0.1:1/mydb")
attach(engine, provider)
try:
    engine.connect()
except sqlalchemy.exc.OperationalError as error:
    assert "refused" in str(error), error
engine.dispose()
create_engine(RotatingConnectionPool(provider)).dispose()
"""


@pytest.mark.slow
def test_engines_for_threads_need_no_greenlet() -> None:
    # SQLAlchemy 2.1 has it only with its extra asyncio.
    pytest.importorskip("sqlalchemy")
    subprocess.run([sys.executable, "-c", WITHOUT_GREENLET], check=True, timeout=60)
