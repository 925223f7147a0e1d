"""Make the pools, connections and listeners for threads from those for asyncio.

    python tools/make_sync.py           write them
    python tools/make_sync.py --check   fail where one is out of date

What differs by more than the patterns below say stands in `pool/_compat.py`, in pairs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "ephemeral_creds"
POOL_FILES = ("connector.py", "internals.py", "null_pool.py", "pool.py", "session.py", "worker.py")
FILES = (
    *(PACKAGE / "pool" / "_async" / name for name in POOL_FILES),
    *(
        PACKAGE / "contrib" / "psycopg" / "_async" / name
        for name in ("connection.py", "listener.py")
    ),
)

HEADER = '# Made from _async/{} by tools/make_sync.py: change that, then run "nox -s twins".\n'

# What has become short enough is put on one line.
JOIN_LINES = ("--config", "format.skip-magic-trailing-comma=true")

# Each takes what those before it have left.
PATTERNS = (
    (r"\basync (?=def |for |with )", ""),
    (r"\bawait ", ""),
    (r"\b__a(?=(?:enter|exit|iter|next)__)", "__"),
    (r"\ba(?=(?:connect|listen)\b)", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    # Modules, names of ours, and names of psycopg's. One keeper, with a face for asyncio, serves
    # the pools of both kinds.
    (r"\b_async\b", "_sync"),
    (r"(?<=\w)(?<!\bkeeper)_async\b", ""),
    (r"\bAsync(?!CredentialKeeper\b)(?=[A-Z])", ""),
    (r"\bACT\b", "CT"),
    (r"\bAwaitable, ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    # What may block is called where it stands.
    (r"\bin_thread\(([\w.]+), ", r"\1("),
    (r"\basyncio(?=\.Lock|$)", "threading"),
    # What needs the event loop, imports what is for it or speaks of it, has no twin.
    (r"in the event loop that uses it, and\s+", ""),
    (r"^.*asyncio\b.*\n", ""),
    (r"^from [\w.]+\.keeper\.loop import .*\n", ""),
)


def convert(source: str) -> tuple[str, list[int]]:
    """Return the twin of `source`, and how often it had each pattern."""
    uses = []
    for pattern, twin in PATTERNS:
        source, count = re.subn(pattern, twin, source, flags=re.MULTILINE)
        uses.append(count)
    return source, uses


def ruff(source: str, path: Path, *command: str) -> str:
    """Return `source` as ruff leaves it, with its settings for `path`."""
    return subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--quiet", f"--stdin-filename={path}", "-"],
        input=source,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout


def main(arguments: list[str]) -> int:
    """Write what is out of date, or name it; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    total = [0] * len(PATTERNS)
    status = 0
    for path in FILES:
        target = path.parents[1] / "_sync" / path.name
        source, uses = convert(path.read_text(encoding="utf-8"))
        total = [before + more for before, more in zip(total, uses, strict=True)]
        ordered = ruff(source, target, "check", "--select=I", "--fix")
        made = HEADER.format(path.name) + ruff(ordered, target, "format", *JOIN_LINES)
        if target.exists() and target.read_text(encoding="utf-8") == made:
            continue
        if arguments:
            print(f'{target} is out of date: run "nox -s twins"', file=sys.stderr)
            status = 1
        else:
            target.write_text(made, encoding="utf-8")
            print(f"{target} written")
    for (pattern, _), count in zip(PATTERNS, total, strict=True):
        if not count:
            print(f"nothing has the pattern {pattern!r} any more: remove it", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
