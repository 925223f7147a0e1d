"""Listening on connections of a pool, from one to the next."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg_pool import PoolClosed, PoolTimeout

from ephemeral_creds._backoff import backoff
from ephemeral_creds.observers import logger, where_raised

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from psycopg import AsyncConnection, Notify

    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool

__all__ = ["listen"]

# How often a connection is looked at while there are no notifications, and how long its successor
# may take before those that have come meanwhile are passed on: seconds.
_STEP = 1.0

# Delays after a failure that follows another: as those of the pool's own connects.
_RETRY_INITIAL, _RETRY_MAX = 0.25, 10.0


async def listen(
    pool: AsyncRotatingConnectionPool[Any], channels: Iterable[str]
) -> AsyncGenerator[Notify | None, None]:
    """Yield what is notified on `channels`, and ``None`` wherever something may have been missed.

    It borrows a connection. When the credentials of that have been replaced, another connection
    listens before it is returned, so that nothing is missed and the old lease can be revoked; a few
    notifications may come twice. If a connection breaks, or there is none in time, it tries again
    without a limit. Use it with `contextlib.aclosing`.

    Args:
        pool: an open one, of two connections or more.
        channels: their names, without quotes.

    Raises:
        PoolClosed: the pool is closed.
    """
    listener = _Listener(pool, tuple(channels))
    failures = 0
    try:
        while True:
            try:
                if await listener.begin():
                    yield None
                for notice in await listener.wait():
                    yield notice
            except PoolClosed:
                raise
            except psycopg.OperationalError as error:
                logger.info(
                    "%s: a connection that listened has failed: %s", pool.name, where_raised(error)
                )
                await listener.let_go()
                failures += 1
                if failures > 1:
                    await asyncio.sleep(backoff(failures - 1, _RETRY_INITIAL, _RETRY_MAX))
            else:
                failures = 0
    finally:
        await listener.let_go()


class _Listener:
    """The connection that listens."""

    def __init__(self, pool: AsyncRotatingConnectionPool[Any], channels: tuple[str, ...]) -> None:
        self._pool = pool
        self._channels = channels
        self._connection: AsyncConnection[Any] | None = None
        self._left: list[Notify] = []

    async def begin(self) -> bool:
        """Listen on a connection of the credentials in use, if the pool lends one.

        Returns:
            Whether none has listened before it, or it has broken.
        """
        old = self._connection
        if old is None:
            self._connection = await self._listening(await self._pool.getconn())
            return True
        if not self._pool.is_stale(old):
            return False
        try:
            new = await self._pool.getconn(_STEP)
        except PoolTimeout:
            return False
        if self._pool.is_stale(new):
            await self._pool.putconn(new)
            return False
        self._connection = await self._listening(new)
        try:
            # PostgreSQL sends what has been notified by now before it answers.
            await old.execute("SELECT 1")
            await old.commit()
            self._left = [notice async for notice in old.notifies(timeout=0)]
        finally:
            await self._pool.putconn(old)
        return False

    async def _listening(self, connection: AsyncConnection[Any]) -> AsyncConnection[Any]:
        try:
            for channel in self._channels:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            # It takes effect now; and in a transaction there are no notifications.
            await connection.commit()
        except BaseException:
            await self._pool.putconn(connection)
            raise
        return connection

    async def wait(self) -> list[Notify]:
        """Return the next notifications; an empty list after a while without any."""
        left, self._left = self._left, []
        if left or self._connection is None:
            return left
        waiting = self._connection.notifies(timeout=_STEP, stop_after=1)
        return [notice async for notice in waiting]

    async def let_go(self) -> None:
        """Return the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if not (connection.closed or self._pool.is_stale(connection)):
                with suppress(psycopg.Error):
                    await connection.execute("UNLISTEN *")
                    await connection.commit()
        finally:
            await self._pool.putconn(connection)
