"""Connections that were opened ahead, and wait for an old one to replace."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from ephemeral_creds._pool_connect import generation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Replacements"]

T = TypeVar("T")


class Replacements(Generic[T]):
    """New comes before old, and never more than `overshoot` of it.

    Whoever opens a connection ahead reserves it first. Whoever closes an old one claims first:
    there are never more claims than replacements that are ready. What psycopg_pool then opens in
    place of the closed one is taken from here.

    Args:
        overshoot: how many may be reserved or waiting at a time.
    """

    def __init__(self, overshoot: int) -> None:
        self._overshoot = overshoot
        self._lock = threading.RLock()  # as in `Ledger`
        # Until when each may wait.
        self._ready: dict[T, float] = {}
        self._reserved = 0
        self._claims = 0

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
        """The connect failed."""
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
        """Take one of `generation`, if there is any."""
        if not self._ready:
            return None
        with self._lock:
            found = next((c for c in self._ready if generation_of(c) == generation), None)
            return self._remove(found) if found is not None else None

    def has(self, connection: T) -> bool:
        """Tell whether this very one is still waiting."""
        with self._lock:
            return connection in self._ready

    def withdraw(self, connection: T) -> bool:
        """Take this very one; false where somebody has, or is about to: room was made for it."""
        with self._lock:
            generation = generation_of(connection)
            if connection not in self._ready or not self.claimable(generation):
                return False
            del self._ready[connection]
            return True

    def withdraw_unclaimed(self, generation: int) -> list[T]:
        """Take those of `generation` that nothing has made room for."""
        with self._lock:
            found = [c for c in self._ready if generation_of(c) == generation][self._claims :]
            for connection in found:
                del self._ready[connection]
            return found

    def withdraw_all(self, unwanted: Callable[[int], bool], now: float) -> list[T]:
        """Take all whose generation is `unwanted`, or whose time is over."""
        with self._lock:
            found = [
                connection
                for connection, until in self._ready.items()
                if until <= now or unwanted(generation_of(connection))
            ]
            return [self._remove(connection) for connection in found]

    def make_room(self) -> T | None:
        """Take one where so many are waiting that no other may be opened."""
        with self._lock:
            if self._ready and self._reserved + len(self._ready) >= self._overshoot:
                return self._remove(next(iter(self._ready)))
        return None

    def due_in(self, now: float) -> float | None:
        """Return in how many seconds the time of one is over; ``None`` where that of none is."""
        with self._lock:
            first = min(self._ready.values(), default=math.inf)
        return max(first - now, 0.0) if first < math.inf else None

    def claimable(self, generation: int) -> bool:
        """Tell whether one of `generation` is ready that nothing has made room for yet."""
        ready = sum(generation_of(c) == generation for c in list(self._ready))
        return ready > self._claims

    def claim(self, generation: int) -> bool:
        """Ask for the right to close an old connection."""
        with self._lock:
            if not self.claimable(generation):
                return False
            self._claims += 1
            return True

    def _remove(self, connection: T) -> T:
        del self._ready[connection]
        self._claims = max(self._claims - 1, 0)
        return connection
