"""How long the import takes, in fresh interpreters, and what it brings along."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks._measure import ratios, spread

if TYPE_CHECKING:
    from benchmarks._measure import Effort

__all__ = ["measure"]

THEIRS = "import psycopg_pool"
# Importing the package alone imports next to nothing; what counts is the first use of a pool.
OURS = "import ephemeral_creds; ephemeral_creds.RotatingConnectionPool"
THEIR_POOL = f"{THEIRS}; psycopg_pool.ConnectionPool('', open=False)"
OUR_POOL = (
    "import ephemeral_creds as ours; ours.RotatingConnectionPool(ours.FixedProvider('u', 'p'))"
)
UNWANTED = ("hvac", "requests", "watchdog", "tenacity")


def measure(effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures and details."""
    for code in (THEIRS, OURS, OUR_POOL):
        _seconds(code)  # so that everything has been compiled, and read once
    found = ratios(lambda: _seconds(OURS), lambda: _seconds(THEIRS), effort.imports)
    pools = ratios(lambda: _seconds(OUR_POOL), lambda: _seconds(THEIR_POOL), effort.imports)
    strays = json.loads(_output(f"{OURS}\nimport json, sys\nprint(json.dumps([*sys.modules]))"))
    return {
        "import_ratio": statistics.median(found),
        "import_strays": [name for name in UNWANTED if name in strays],
    }, {
        "ratio_quartiles": spread(found),
        "ratio_with_a_pool_made": spread(pools),
        "psycopg_pool_ms": round(statistics.median(_seconds(THEIRS) for _ in range(5)) * 1000, 1),
    }


def _seconds(code: str) -> float:
    timed = f"import time\nbegan = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    return float(_output(timed))


def _output(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
