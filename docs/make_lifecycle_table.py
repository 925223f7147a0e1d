"""Draw the machine's tables into the page about a credential's life.

    python docs/make_lifecycle_table.py            # rewrite the page
    python docs/make_lifecycle_table.py --check    # exit status 1 where it is out of date

Both are made from the tables that the machine itself works by, so that the page cannot say
anything else than the code does.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import get_args

from ephemeral_creds.lifecycle.generation import MOVES, Stage
from ephemeral_creds.lifecycle.machine import HEARD, State
from ephemeral_creds.lifecycle.signals import Signal

PAGE = Path(__file__).parent / "explanation" / "life-of-a-credential.md"
BEGIN = "<!-- {}, drawn by docs/make_lifecycle_table.py: do not edit -->"
END = "<!-- end of what is drawn -->"


def moves() -> str:
    """Draw the moves of a generation: an arrow for each."""
    width = max(len(turn.value) for _, turn in MOVES)
    blocks = []
    for stage in Stage:
        arrows = [(turn, after) for (before, turn), after in MOVES.items() if before is stage]
        lines = []
        for index, (turn, after) in enumerate(arrows):
            first, last = index == 0, index == len(arrows) - 1
            fork = "─" if first and last else "┬" if first else "└" if last else "├"
            name = f"{stage.name} ".ljust(11, "─") if first else " " * 11
            label = f"{turn.value} ".ljust(width + 2, "─")
            lines.append(f"{name}{fork}─ {label}─▶ {after.name}")
        blocks.append("\n".join(lines))
    return "```text\n" + "\n\n".join(block for block in blocks if block) + "\n```"


def signals() -> str:
    """Draw a table with a line for each signal, and a column for each state."""
    lines = [
        f"| signal | says | {' | '.join(state.name for state in State)} |",
        f"|---|---|{'---|' * len(State)}",
    ]
    for signal in get_args(Signal):
        says = (inspect.getdoc(signal) or "").splitlines()[0]
        heard = ["heard" if signal in HEARD[state] else "–" for state in State]
        lines.append(f"| `{signal.__name__}` | {says} | {' | '.join(heard)} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """Return a page's text with both as they should be."""
    for name, drawn in (("moves", moves()), ("signals", signals())):
        begin = BEGIN.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        if not after:
            raise SystemExit(f"{PAGE} lacks the lines that say where the {name} go")
        text = f"{before}{begin}\n\n{drawn}\n\n{END}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Rewrite the page, or check it; return the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = updated(text)
    if "--check" in arguments:
        if text != wanted:
            sys.stderr.write(f"{PAGE} is out of date: run python docs/make_lifecycle_table.py\n")
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
