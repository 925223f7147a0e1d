"""The processor time of the import, in fresh interpreters, and what it brings along."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Figure, compare, least_of

if TYPE_CHECKING:
    from benchmarks._measure import Effort

__all__ = ["measure"]

THEIRS = "import psycopg_pool"
# Importing the package alone imports next to nothing; what counts is the first use of a pool.
OURS = "import ephemeral_creds; ephemeral_creds.RotatingConnectionPool"
UNWANTED = ("hvac", "requests", "watchdog", "tenacity")
# Interpreters of each kind in a group; more than the first has its files in the cache.
TURNS = 5


def measure(effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    kinds = {"plain": THEIRS, "ours": OURS, "control": THEIRS}
    turns = {who: functools.partial(_seconds, code) for who, code in kinds.items()}
    groups = [least_of(turns, TURNS) for _ in range(effort.imports)]
    ours, control = ([g[who] / g["plain"] for g in groups] for who in ("ours", "control"))
    strays = json.loads(_output(f"{OURS}\nimport json, sys\nprint(json.dumps([*sys.modules]))"))
    return {
        "import_ratio": compare(ours, control),
        "import_strays": Figure([name for name in UNWANTED if name in strays]),
    }, {f"{who}, ms": round(min(g[who] for g in groups) * 1000, 1) for who in kinds}


def _seconds(code: str) -> float:
    timed = f"from time import process_time as now\nbegan = now()\n{code}\nprint(now() - began)"
    return float(_output(timed))


def _output(code: str) -> str:
    # Installers compile what they install; with this variable set, only ours, which is installed
    # for editing, would be compiled again by each interpreter.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
