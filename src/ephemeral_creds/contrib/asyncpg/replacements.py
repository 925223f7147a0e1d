"""Replacing the connections of old generations, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ephemeral_creds._backoff import backoff
from ephemeral_creds.contrib.asyncpg import quirks
from ephemeral_creds.contrib.asyncpg.login import session_of
from ephemeral_creds.observers import logger, where_raised

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ephemeral_creds.keeper.sessions import Sessions

__all__ = ["Replacements", "is_stale"]

# Seconds before a connect that failed is tried again: at first, and at most. The old connections
# work meanwhile.
_RETRY_INITIAL, _RETRY_MAX = 0.25, 10.0


def is_stale(connection: object) -> bool:
    """Tell whether newer credentials than those of `connection` are in use."""
    session = session_of(connection)
    return session is not None and session.is_stale


class Replacements:
    """New connections that wait to take the place of old ones.

    There is one spare, which is opened before an old connection is closed. When one is closed, the
    spare is ready for its holder, which finds it when it connects.

    Args:
        pool: the pool, or what `quirks` find in its place.
        connect: opens a connection, or raises.
    """

    def __init__(self, pool: object, connect: Callable[[], Awaitable[Any]]) -> None:
        self._pool = pool
        self._connect = connect
        self._spare: Any = None
        self._ready: list[Any] = []
        # Set, and replaced, when those that wait have to look again.
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have `run` and `until` look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `condition` holds, up to an instant on the loop's clock; tell whether it does.

        It is looked at after each `wake`.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while True:
                    changed = self._changed
                    if condition():
                        return True
                    await changed.wait()
        return condition()

    def take(self) -> Any:
        """Return a connection for a holder; ``None`` if none is ready."""
        while self._ready:
            connection = self._ready.pop()
            if _is_good(connection):
                return connection
            connection.terminate()
        return None

    def make_room(self) -> bool:
        """Tell whether a stale connection that is returned may be closed: another is ready then."""
        if self._spare is None or not _is_good(self._spare):
            return False
        self._ready.append(self._spare)
        self._spare = None
        return True

    def close(self) -> None:
        """End all that were not needed."""
        for connection in (*self._ready, self._spare):
            if connection is not None:
                connection.terminate()
        self._ready, self._spare = [], None

    async def run(self, sessions: Sessions, name: str) -> None:
        """Replace stale connections until this is cancelled."""
        failures = 0
        while True:
            changed = self._changed
            try:
                looks_again = await self._step(sessions)
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the old ones still work
                looks_again = False
                failures += 1
                if failures == 1:
                    logger.warning(
                        "%s: connections of replaced credentials stay in use for now: %s",
                        name,
                        where_raised(error),
                    )
            if not looks_again:
                delay = backoff(failures, _RETRY_INITIAL, _RETRY_MAX) if failures else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await changed.wait()

    async def _step(self, sessions: Sessions) -> bool:
        """Replace one idle connection; tell whether there may be another.

        If none is idle, the first stale one that is returned makes room.
        """
        for connection in [c for c in self._ready if not _is_good(c)]:
            self._ready.remove(connection)
            connection.terminate()
        if self._spare is not None and (not _is_good(self._spare) or not sessions.stale):
            self._spare.terminate()
            self._spare = None
        if not sessions.stale:
            return False
        if self._spare is None:
            self._spare = await self._connect()
        holder = quirks.take_idle(self._pool, is_stale)
        if holder is None:
            return False
        self.make_room()
        try:
            await quirks.reconnect(holder)
        finally:
            quirks.put_back(self._pool, holder)
        return True


def _is_good(connection: Any) -> bool:
    return not connection.is_closed() and not is_stale(connection)
