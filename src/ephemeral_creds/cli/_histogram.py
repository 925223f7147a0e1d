"""Latencies in bounded memory."""

from __future__ import annotations

import math

__all__ = ["Histogram"]

_SMALLEST = 1e-5  # seconds; no transaction over TCP is faster
_GROWTH = 1.02  # a bucket is 2 % wide, which is more exact than two runs agree
_BUCKETS = 900  # up to 10 µs * 1.02**900 = 550 s, longer than any timeout of the demo


class Histogram:
    """Counts durations in buckets that grow geometrically. Not locked: one thread writes."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._longest = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        place = int(math.log(max(seconds, _SMALLEST) / _SMALLEST) / math.log(_GROWTH))
        self._counts[min(place, _BUCKETS - 1)] += 1
        self._longest = max(self._longest, seconds)

    def add(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        for place, count in enumerate(other._counts):
            self._counts[place] += count
        self._longest = max(self._longest, other._longest)

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts)

    def quantile(self, fraction: float) -> float | None:
        """Return the seconds that `fraction` of the durations did not exceed, 2 % too much at most.

        Returns:
            ``None`` where nothing has been counted.
        """
        wanted = math.ceil(fraction * self.count)
        if not self.count:
            return None
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= max(wanted, 1):
                return min(_SMALLEST * _GROWTH ** (place + 1), self._longest)
        return self._longest
