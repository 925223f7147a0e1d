"""pgqueuer: a driver that takes its connections from a pool."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

from psycopg import AsyncRawCursor
from psycopg.rows import dict_row

from ephemeral_creds.contrib._listen import listen_beside
from ephemeral_creds.contrib._missing import missing
from ephemeral_creds.observers import logger, where_raised

try:
    from pgqueuer.core.tm import TaskManager
    from pgqueuer.ports.driver import Driver
except ModuleNotFoundError as error:
    raise missing(error, "pgqueuer") from None

if TYPE_CHECKING:
    from pgqueuer.ports.driver import NotifyCallback

    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool

__all__ = ["PoolDriver"]


class PoolDriver(Driver):
    """A driver of pgqueuer on an `AsyncRotatingConnectionPool`: ``PgQueuer(PoolDriver(pool))``.

    pgqueuer's own driver for psycopg has one connection, permanently. This one borrows one for each
    query, and has another outside the pool to listen on. In a rotation the next one listens before
    that is closed, and after it broke, pgqueuer looks for jobs; see
    `ephemeral_creds.contrib.psycopg.alisten`.

    Args:
        pool: an open one. The driver does not close it.
    """

    def __init__(self, pool: AsyncRotatingConnectionPool[Any]) -> None:
        self._pool = pool
        self._shutdown = asyncio.Event()
        self._tasks = TaskManager()
        self._listeners: dict[str, list[NotifyCallback]] = {}
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._entered = 0

    @property
    def shutdown(self) -> asyncio.Event:
        """Set when it has been left."""
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        """Its background tasks."""
        return self._tasks

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Return the rows that `query` brings."""
        async with self._pool.connection() as connection:
            # psycopg wants literals, which pgqueuer builds at run time.
            cursor = AsyncRawCursor(connection, row_factory=dict_row)
            await cursor.execute(cast("Any", query), args or None)
            return await cursor.fetchall()

    async def execute(self, query: str, *args: object) -> str:
        """Run `query` and return its status message."""
        async with self._pool.connection() as connection:
            cursor = AsyncRawCursor(connection)
            await cursor.execute(cast("Any", query), args or None)
            return cursor.statusmessage or ""

    async def notify(self, channel: str, payload: str) -> None:
        """Send `payload` to all that listen on `channel`."""
        await self.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Have `callback` called with the payload of each notification on `channel`."""
        known = channel in self._listeners
        self._listeners.setdefault(channel, []).append(callback)
        if not known:
            await self._watch()

    async def remove_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Undo `add_listener`; the last one ends the listening."""
        callbacks = self._listeners.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks and self._listeners.pop(channel, None) is not None:
            await self._watch()

    async def __aenter__(self) -> Self:
        # pgqueuer enters one driver from two managers.
        if self._entered == 0:
            self._shutdown.clear()
        self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0:
            self._shutdown.set()
            self._listeners.clear()
            await self._watch()

    async def _watch(self) -> None:
        """Listen on all channels that there are now, instead of those before."""
        async with self._lock:
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.wait([self._watcher])
                self._watcher = None
            if not self._listeners:
                return
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watcher = asyncio.create_task(self._pass_on(begun), name="pgqueuer-listener")
            self._tasks.add(self._watcher)
            await begun

    async def _pass_on(self, begun: asyncio.Future[None]) -> None:
        try:
            listener = await listen_beside(self._pool, tuple(self._listeners), self._look)
            async with listener as notices:
                begun.set_result(None)
                async for notice in notices:
                    self._call(notice.channel, notice.payload)
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)

    def _look(self) -> None:
        for channel in tuple(self._listeners):
            self._call(channel, _changed(channel))

    def _call(self, channel: str, payload: str) -> None:
        for callback in tuple(self._listeners.get(channel, ())):
            try:
                callback(payload)
            except Exception as error:  # noqa: BLE001 - a function of others
                logger.error("%s: a listener failed: %s", channel, where_raised(error))


def _changed(channel: str) -> str:
    """Return what a change of the table sends, to have pgqueuer look for jobs."""
    return json.dumps(
        {
            "type": "table_changed_event",
            "channel": channel,
            "operation": "insert",
            "sent_at": datetime.now(UTC).isoformat(),
            "table": "",
        }
    )
