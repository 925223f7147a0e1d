"""Durations and differences of clocks, in words."""

from __future__ import annotations

__all__ = ["CLOCK_TOLERANCE", "ahead_of", "in_words"]

CLOCK_TOLERANCE = 60.0
"""Seconds that two clocks may differ by, as a rule, before tokens and certificates mind."""


def in_words(seconds: float) -> str:
    """Return a duration in its largest whole unit."""
    whole = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size and whole % size == 0:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def ahead_of(seconds: float) -> str:
    """Return how a clock stands to another one, which it is ahead of by `seconds`."""
    if abs(seconds) < 1.5:  # as much as is not known of a clock that tells whole seconds
        return "the same as"
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
