"""The command: measures, prints a table of targets, and ends with 0 unless something failed."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks import (
    _docs,
    checkout,
    imports,
    memory,
    metrics,
    rotation,
    sizes,
    vault,
    watch,
)
from benchmarks._measure import FULL, QUICK, Figure
from benchmarks._targets import TARGETS, table
from ephemeral_creds.testing import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order in which they run: what is sensitive to noise comes before what makes it.
WITH_SERVER = {
    "checkout": checkout.measure,
    "async": checkout.measure_async,
    "rotation": rotation.measure,
    "sizes": sizes.measure,
    "vault": vault.measure,
    "metrics": metrics.measure,
    "memory": memory.measure,
}
ALONE = {"watch": watch.measure, "import": imports.measure}
SECTIONS = (*ALONE, *WITH_SERVER)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the pools against psycopg_pool's own, all in one run. A missed "
        "target is marked, and does not change the exit status.",
    )
    parser.add_argument("--quick", action="store_true", help="in three minutes, and less exact")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--docs", action="store_true", help="write the figures into docs/explanation/speed.md"
    )
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="measure this; may be repeated"
    )
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else FULL
    chosen = options.only or SECTIONS
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    machine: dict[str, Any] = _machine()
    with ExitStack() as stack:
        server: PostgresServer | None = None
        for section in SECTIONS:
            if section not in chosen:
                continue
            began = time.perf_counter()
            if section in ALONE:
                found = ALONE[section](effort)
            else:
                if server is None:
                    server = stack.enter_context(PostgresServer(max_connections=600))
                    machine["postgresql"] = server.version
                found = WITH_SERVER[section](server, effort)
            figures |= found[0]
            details[section] = found[1]
            print(f"\n{section}, {time.perf_counter() - began:.0f} s")
            _show(found[1])
    print(f"\n{json.dumps(machine)}\n\n{table(figures)}")
    if options.docs:
        _docs.write(figures, details, machine)
    if options.json:
        verdicts = {t.key: t.verdict(figures[t.key]) for t in TARGETS if t.key in figures}
        answer = {t.key: figures[t.key].value if t.key in figures else None for t in TARGETS}
        more = {
            "verdicts": verdicts,
            "errors": {k: e if math.isfinite(e := figures[k].error) else None for k in verdicts},
            "quick": options.quick,
            "machine": machine,
            "details": details,
        }
        print(json.dumps(answer | more))
    return 0


def _machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("psycopg", "psycopg-pool")},
    }


def _show(details: dict[str, Any], indent: str = "  ") -> None:
    for key, value in details.items():
        if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
            print(f"{indent}{key}")
            _show(value, indent + "  ")
        else:
            print(f"{indent}{key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
