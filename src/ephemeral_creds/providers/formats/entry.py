"""One key of a file with its value; pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Entry"]


class Entry(NamedTuple):
    """One key of a file with its value.

    Attributes:
        key: as it is written there.
        value: as text, whatever it is.
        where: its place, for messages.
        kind: its type if it is not text: "a number".
        doubt: why the value is ambiguous, and what to do; empty if it is clear. Counts only if the
            value is needed.
    """

    key: str
    value: str
    where: str
    kind: str = ""
    doubt: str = ""
