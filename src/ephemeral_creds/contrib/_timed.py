"""Pools that time each checkout: mixins, because it costs each checkout something."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from psycopg_pool import AsyncConnectionPool, ConnectionPool
from psycopg_pool.abc import ACT, CT

__all__ = ["AsyncTimedCheckouts", "Checkouts", "TimedCheckouts", "Times"]


class Times(Protocol):
    """A listener that learns how long things take, in seconds. It must not raise."""

    def waited(self, seconds: float) -> None:
        """A caller has got a connection."""

    def used(self, seconds: float) -> None:
        """A connection was returned."""


class Checkouts:
    """When each connection was borrowed."""

    _times: Times | None = None
    _borrowed_at: dict[int, float]

    def report_times(self, times: Times) -> None:
        """Call `times` for each checkout from now on."""
        self._borrowed_at = {}
        self._times = times

    def _note_checkout(self, began: float, connection: object) -> None:
        if self._times is not None:
            now = perf_counter()
            self._borrowed_at[id(connection)] = now
            self._times.waited(now - began)

    def _note_return(self, connection: object) -> None:
        # Before it is returned: then another caller may have it at once.
        if self._times is not None:
            borrowed_at = self._borrowed_at.pop(id(connection), None)
            if borrowed_at is not None:
                self._times.used(perf_counter() - borrowed_at)


class TimedCheckouts(Checkouts, ConnectionPool[CT]):
    """Times each checkout, as a base beside a pool: before it, so that it comes first.

    class TimedPool(TimedCheckouts, RotatingConnectionPool): ...

    The clock is read twice per checkout and once per return, and two histograms are told.
    """

    def getconn(self, timeout: float | None = None) -> CT:
        """Check a connection out, as the pool does."""
        began = perf_counter()
        connection = super().getconn(timeout)
        self._note_checkout(began, connection)
        return connection

    def putconn(self, conn: CT) -> None:
        """Return a connection, as the pool does."""
        self._note_return(conn)
        super().putconn(conn)


class AsyncTimedCheckouts(Checkouts, AsyncConnectionPool[ACT]):
    """Times each checkout of an `AsyncRotatingConnectionPool`, as `TimedCheckouts` does."""

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Check a connection out, as the pool does."""
        began = perf_counter()
        connection = await super().getconn(timeout)
        self._note_checkout(began, connection)
        return connection

    async def putconn(self, conn: ACT) -> None:
        """Return a connection, as the pool does."""
        self._note_return(conn)
        await super().putconn(conn)
