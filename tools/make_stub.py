"""Write each ``__init__.pyi``, by which type checkers know the public names: for `nox -s twins`.

The packages import them on first use, from the modules in one table.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from make_sync import ruff

ROOT = Path(__file__).parents[1] / "src"
PACKAGES = ("ephemeral_creds", "ephemeral_creds.testing")
HEADER = "# Made by tools/make_stub.py from __init__.py: do not edit.\n\n"


def stub(package: str, source: Path) -> str:
    """Return what the file of a package has to hold."""
    homes: dict[str, str] = runpy.run_path(str(source))["_HOMES"]
    lines = [f"from {package}.{home} import {name} as {name}\n" for name, home in homes.items()]
    target = source.with_suffix(".pyi")
    ordered = ruff(HEADER + "".join(lines), target, "check", "--select=I", "--fix")
    return ruff(ordered, target, "format")


def main(arguments: list[str]) -> int:
    """Write them, or with ``--check`` say which are out of date; return the exit status."""
    status = 0
    for package in PACKAGES:
        source = ROOT.joinpath(*package.split("."), "__init__.py")
        target, made = source.with_suffix(".pyi"), stub(package, source)
        if target.exists() and target.read_text(encoding="utf-8") == made:
            continue
        if arguments:
            print(f'{target} is out of date: run "nox -s twins"', file=sys.stderr)
            status = 1
        else:
            target.write_text(made, encoding="utf-8")
            print(f"{target} written")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
