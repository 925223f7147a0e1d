"""Which connections of a pool are open, and of which generation each is."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import psycopg
import psycopg_pool

__all__ = ["Borrowed", "Ledger"]

T = TypeVar("T")

# Where a checkout passes on its way into the pool.
_INNER = (
    f"{Path(__file__).parent}{os.sep}",
    f"{Path(psycopg_pool.__file__).parent}{os.sep}",
    f"{Path(psycopg.__file__).parent}{os.sep}",
    contextlib.__file__,
)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """When and where a connection was checked out."""

    at: float
    where: str

    @classmethod
    def here(cls, now: float) -> Borrowed:
        """Describe the caller of the pool: the innermost frame that is not of a library."""
        frames = reversed(traceback.extract_stack())
        frame = next((f for f in frames if not f.filename.startswith(_INNER)), None)
        where = f"{frame.filename}:{frame.lineno} in {frame.name}" if frame else "unknown"
        return cls(now, where)


class Ledger(Generic[T]):
    """Which connections are open, by generation; those being opened count as open.

    The generation is written down when the credentials are resolved, *before* connecting: what
    counts is the credentials that a connection has, not when it was ready.
    """

    def __init__(self) -> None:
        self.peak = 0
        # Reentrant: a collection while it is held may return a forgotten connection.
        self._lock = threading.RLock()
        self._opening: Counter[int] = Counter()
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()

    def opening(self, generation: int) -> None:
        """A connect is about to start."""
        with self._lock:
            self._opening[generation] += 1
            total = self._opening.total() + sum(not c.closed for c in self._open)
            self.peak = max(self.peak, total)

    def opened(self, connection: T, generation: int) -> None:
        """It succeeded."""
        with self._lock:
            self._ended(generation)
            self._open.add(connection)

    def failed(self, generation: int) -> None:
        """It did not."""
        with self._lock:
            self._ended(generation)

    @property
    def size(self) -> int:
        """How many connections there are."""
        return sum(self.by_generation().values())

    @property
    def lent(self) -> int:
        """How many psycopg_pool has marked as its own: it does while they are not idle."""
        with self._lock:
            return sum(c._pool is not None and not c.closed for c in self._open)  # noqa: SLF001

    def owns(self, connection: object) -> bool:
        """Tell whether `connection` is one of those counted here."""
        with self._lock:
            return connection in self._open

    def connections(self, generation: int) -> list[T]:
        """Return the open connections of `generation`."""
        with self._lock:
            return [c for c in self._open if c.lease_generation == generation and not c.closed]

    def has_before(self, generation: int) -> bool:
        """Tell whether any connection is of a generation before this one; mostly a short look."""
        with self._lock:
            return any(number < generation for number in self._opening) or any(
                c.lease_generation < generation and not c.closed for c in self._open
            )

    def by_generation(self) -> dict[int, int]:
        """Return how many connections there are of each generation."""
        with self._lock:
            counts = Counter(self.open_by_generation())
            counts.update(self._opening)
            return dict(sorted(counts.items()))

    def open_by_generation(self) -> dict[int, int]:
        """Return how many there are without those being opened."""
        with self._lock:
            counts = Counter(c.lease_generation for c in self._open if not c.closed)
            return dict(sorted(counts.items()))

    def _ended(self, generation: int) -> None:
        self._opening[generation] -= 1
        if not self._opening[generation]:
            # A zero for each generation there ever was would add up.
            del self._opening[generation]
