"""Write the table of states and signals into the page about a credential's life.

    python docs/make_lifecycle_table.py            # rewrite the page
    python docs/make_lifecycle_table.py --check    # exit status 1 where it is out of date

The table is made from the one that the machine itself works by, so that the page cannot say
anything else than the code does. A handler that has no words here stops the script.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from ephemeral_creds.lifecycle.machine import Lifecycle, State
from ephemeral_creds.lifecycle.signals import Signal

PAGE = Path(__file__).parent / "explanation" / "life-of-a-credential.md"
BEGIN = "<!-- made by docs/make_lifecycle_table.py: do not edit -->"
END = "<!-- end of what is made -->"

WORDS = {
    "_start": "ask the provider",
    "_granted_without_fallback": "use it at once",
    "_granted_with_fallback": "prove it first",
    "_granted_too_late": "give it back",
    "_renewed": "note the new deadline, plan what is next",
    "_revoked": "forget the grant",
    "_failed": "plan the next attempt, if there is to be one",
    "_source_changed": "ask the provider again",
    "_source_seen": "note whether it can be used",
    "_refresh_requested": "ask the provider, unless that is under way",
    "_left": "count the pool out",
    "_accepted": "note the proof",
    "_rejected": "discard a candidate, or ask the provider",
    "_released": "give the grant back after the last pool",
    "_end_learned": "note when it is expected to end",
    "_close": "give everything back",
}


def table() -> str:
    """Return the table as Markdown: one line per signal, one column per state."""
    states = list(State)
    lines = [
        f"| signal | {' | '.join(state.name for state in states)} |",
        f"|---|{'---|' * len(states)}",
    ]
    for signal in get_args(Signal):
        handlers = [Lifecycle._TABLE[state].get(signal) for state in states]  # noqa: SLF001
        words = [WORDS[handler.__name__] if handler else "–" for handler in handlers]
        lines.append(f"| `{signal.__name__}` | {' | '.join(words)} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """Return a page's text with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{PAGE} lacks the lines that say where the table goes")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


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
