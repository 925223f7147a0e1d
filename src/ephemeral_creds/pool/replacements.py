"""Connections that were opened ahead, and wait for an old one to replace."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from ephemeral_creds.pool.login import generation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Replacements"]

T = TypeVar("T")


class Replacements(Generic[T]):
    """New comes before old, and never more than `overshoot` of it.

    Whoever opens a connection ahead reserves it first. Whoever puts one in the place of an old
    one takes it, and it counts until the old one is closed.

    Args:
        overshoot: how many may be reserved or waiting at a time.
    """

    def __init__(self, overshoot: int) -> None:
        self._overshoot = overshoot
        self._lock = threading.RLock()  # as in `Ledger`
        # Until when each may wait.
        self._ready: dict[T, float] = {}
        self._reserved = 0

    def reserve(self, wanted: float = math.inf) -> bool:
        """Ask for the right to open one; `cancel` or `add` follows.

        Args:
            wanted: how many there should be at most, those under way included.
        """
        with self._lock:
            if self._reserved + len(self._ready) >= min(self._overshoot, wanted):
                return False
            self._reserved += 1
            return True

    def cancel(self) -> None:
        """The connect failed; or what was taken has its place."""
        with self._lock:
            self._reserved -= 1

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Cancel where an error prevents that the block tells how its connect went."""
        try:
            yield
        except BaseException:
            self.cancel()
            raise

    def add(self, connection: T, until: float = math.inf) -> None:
        """The connect succeeded.

        Args:
            connection: it is withdrawn by who opened it, or else at the instant `until`.
            until: on the clock of `withdraw_all`.
        """
        with self._lock:
            self._reserved -= 1
            self._ready[connection] = until

    def take(self, generation: int) -> T | None:
        """Take one of `generation`, if there is any; `cancel` follows."""
        if not self._ready:
            return None
        with self._lock:
            found = next((c for c in self._ready if generation_of(c) == generation), None)
            if found is not None:
                del self._ready[found]
                self._reserved += 1
            return found

    def has(self, connection: T) -> bool:
        """Tell whether this very one is still waiting."""
        with self._lock:
            return connection in self._ready

    def withdraw(self, connection: T) -> bool:
        """Take this very one, which is to be closed; false where somebody has taken it."""
        with self._lock:
            return self._ready.pop(connection, None) is not None

    def withdraw_all(self, unwanted: Callable[[int], bool], now: float) -> list[T]:
        """Take all whose generation is `unwanted`, or whose time is over."""
        with self._lock:
            found = [
                connection
                for connection, until in self._ready.items()
                if until <= now or unwanted(generation_of(connection))
            ]
            for connection in found:
                del self._ready[connection]
            return found

    def make_room(self) -> T | None:
        """Take one where the most that may be are waiting, so that another may be opened."""
        with self._lock:
            if self._ready and self._reserved + len(self._ready) >= self._overshoot:
                first = next(iter(self._ready))
                del self._ready[first]
                return first
        return None

    def due_in(self, now: float) -> float | None:
        """Return in how many seconds the time of one is over; ``None`` where that of none is."""
        with self._lock:
            first = min(self._ready.values(), default=math.inf)
        return max(first - now, 0.0) if first < math.inf else None
