"""How long to wait after failures in a row."""

from __future__ import annotations

__all__ = ["backoff"]


def backoff(failures: int, initial: float, longest: float, *, jitter: float = 0.0) -> float:
    """Return the delay after the `failures`-th failure in a row: doubling, capped, jittered.

    Args:
        failures: how many there were, 1 or more.
        initial: the delay after the first.
        longest: the delay that it is never longer than.
        jitter: the fraction to take off, so that many processes do not come back together. The
            caller draws it: this is a pure function.
    """
    # A larger power of two is longer than any cap, and overflows in the end.
    return min(initial * 2.0 ** min(failures - 1, 60), longest) * (1 - jitter)
