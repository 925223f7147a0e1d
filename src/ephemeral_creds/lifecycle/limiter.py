"""How many operations there may be in a time."""

from __future__ import annotations

import math

__all__ = ["Limiter"]


class Limiter:
    """A token bucket: `burst` operations at once, then one per `interval` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        # The instant at which the bucket was, or will be, empty of debts: the "virtual
        # scheduling" form of the algorithm, which needs no timer to refill.
        self._full_at = -math.inf

    def available_at(self, now: float) -> float:
        """Return the earliest instant, from `now` on, at which one more is allowed."""
        return max(now, self._full_at - (self._burst - 1) * self._interval)

    def take(self, now: float) -> None:
        """Count one."""
        self._full_at = max(now, self._full_at) + self._interval
