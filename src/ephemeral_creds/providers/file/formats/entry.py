"""One key of a file with its value; pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Entry"]


class Entry(NamedTuple):
    """One key of a file with its value.

    Attributes:
        key: as it is written there.
        value: as text, whatever it is.
        where: what to call the place in a message.
        kind: what it is instead, where it is not text: "a number".
        doubt: why nobody can tell what the value is, and what to do about it; empty where it is
            clear. Counts only where the value is needed.
    """

    key: str
    value: str
    where: str
    kind: str = ""
    doubt: str = ""
