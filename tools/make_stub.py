"""Write ``__init__.pyi``, by which type checkers know the public names: `nox -s twins` calls it.

The package imports them on first use, from the modules in one table.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from make_sync import ruff

SOURCE = Path(__file__).parents[1] / "src" / "ephemeral_creds" / "__init__.py"
TARGET = SOURCE.with_suffix(".pyi")
HEADER = "# Made by tools/make_stub.py from __init__.py: do not edit.\n\n"


def stub() -> str:
    """Return what the file has to hold."""
    homes: dict[str, str] = runpy.run_path(str(SOURCE))["_HOMES"]
    lines = [
        f"from ephemeral_creds.{home} import {name} as {name}\n" for name, home in homes.items()
    ]
    ordered = ruff(HEADER + "".join(lines), TARGET, "check", "--select=I", "--fix")
    return ruff(ordered, TARGET, "format")


def main(arguments: list[str]) -> int:
    """Write it, or with ``--check`` say that it is out of date; return the exit status."""
    made = stub()
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == made:
        return 0
    if arguments:
        print(f'{TARGET} is out of date: run "nox -s twins"', file=sys.stderr)
        return 1
    TARGET.write_text(made, encoding="utf-8")
    print(f"{TARGET} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
