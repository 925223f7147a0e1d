"""What the pools do inside psycopg_pool, for which it has no public way.

Seen in psycopg_pool 3.3.3; tests/guards/test_pool_quirks.py fails when one of these changes.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from psycopg_pool.pool import ReturnConnection
from psycopg_pool.pool_async import ReturnConnection as AsyncReturnConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psycopg import AsyncConnection, Connection
    from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
    from psycopg_pool.abc import ACT, CT

__all__ = [
    "AT_ONCE",
    "check_borrowed",
    "close_borrowed",
    "close_borrowed_async",
    "close_for_good",
    "close_for_good_async",
    "close_timeout",
    "close_timeout_async",
    "count_connect",
    "count_lent",
    "count_refused",
    "discard",
    "discard_async",
    "fail_waiting",
    "fail_waiting_async",
    "finish_return",
    "finish_return_async",
    "has_idle",
    "replace_idle",
    "replace_idle_async",
    "replace_returned",
    "replace_returned_async",
    "return_by_worker",
    "return_by_worker_async",
    "set_expiry",
    "uncount_request",
]

AT_ONCE = 0.001
"""What a checkout is given if no time is left, in seconds: with 0 it gets nothing."""


def replace_idle(pool: ConnectionPool[CT], is_old: Callable[[CT], bool], new: CT) -> CT | None:
    """Put `new` in the place of an old connection that is idle.

    `getconn` and `putconn` would do that, too, and compete with the clients: who comes meanwhile
    finds one connection fewer, so that the pool grows or refuses him. They would run the user's
    ``check`` and ``reset`` as well, and count a request.

    Returns:
        The old connection, to be closed; ``None`` if no old one is idle.
    """
    with pool._lock:
        return _replace_idle(pool, is_old, new)


async def replace_idle_async(
    pool: AsyncConnectionPool[ACT], is_old: Callable[[ACT], bool], new: ACT
) -> ACT | None:
    """Do what `replace_idle` does."""
    async with pool._lock:
        return _replace_idle(pool, is_old, new)


def _replace_idle(pool: Any, is_old: Callable[[Any], bool], new: Any) -> Any | None:
    for place, old in enumerate(pool._pool):
        if is_old(old):
            pool._pool[place] = new
            return old
    return None


def has_idle(
    pool: ConnectionPool[Any] | AsyncConnectionPool[Any], is_old: Callable[[Any], bool]
) -> bool:
    """Tell whether an old connection is idle."""
    return any(is_old(connection) for connection in list(pool._pool))


def check_borrowed(pool: ConnectionPool[Any] | AsyncConnectionPool[Any], connection: Any) -> None:
    """Do what ``putconn`` does first.

    Raises:
        ValueError: it is not of this pool, or was returned before.
    """
    pool._check_pool_putconn(connection)


def replace_returned(pool: ConnectionPool[CT], old: CT, new: CT) -> None:
    """Close a connection that is being returned, and give the pool a new one for it.

    Were it closed and put back, a client would have to wait for a worker, and ``returns_bad``
    would count it.
    """
    try:
        pool._close_connection(old)
    finally:
        pool._add_to_pool(new)


async def replace_returned_async(pool: AsyncConnectionPool[ACT], old: ACT, new: ACT) -> None:
    """Do what `replace_returned` does."""
    try:
        await pool._close_connection(old)
    finally:
        try:
            await pool._add_to_pool(new)
        except BaseException:
            finish_return_async(pool, new)
            raise


def finish_return(pool: ConnectionPool[CT], connection: CT) -> None:
    """Do nothing: threads are not cancelled."""


def finish_return_async(pool: AsyncConnectionPool[ACT], connection: ACT) -> None:
    """Have a worker return a connection, where the task that returned it was cancelled.

    Call it while the error is handled. psycopg_pool has let go of the connection then, and lost it
    if it had to wait for its lock.
    """
    if isinstance(sys.exception(), asyncio.CancelledError) and connection._pool is None:
        pool.run_task(AsyncReturnConnection(pool, connection, from_getconn=True))


def close_for_good(connection: Connection[Any]) -> None:
    """Close a connection that the pool has to do with, also where ``close_returns=True``.

    Its own ``close()`` would return it then.
    """
    connection._pool = None
    connection.close()


async def close_for_good_async(connection: AsyncConnection[Any]) -> None:
    """Do what `close_for_good` does."""
    connection._pool = None
    await connection.close()


def close_borrowed(connection: Connection[Any]) -> None:
    """Close a connection that is about to be returned, also where ``close_returns=True``.

    Unlike after `close_for_good`, the pool still knows it as its own, and misses it.
    """
    pool, connection._pool = connection._pool, None
    try:
        connection.close()
    finally:
        connection._pool = pool


async def close_borrowed_async(connection: AsyncConnection[Any]) -> None:
    """Do what `close_borrowed` does."""
    pool, connection._pool = connection._pool, None
    try:
        await connection.close()
    finally:
        connection._pool = pool


def close_timeout(pool: ConnectionPool[Any], seconds: float) -> float:
    """Return what ``close`` is to be given, for it to take `seconds` at most.

    It waits that long for each of its threads.
    """
    return seconds / (pool.num_workers + 1)


def close_timeout_async(_: AsyncConnectionPool[Any], seconds: float) -> float:
    """Do what `close_timeout` does; all tasks are waited for at once."""
    return seconds


class _Return(ReturnConnection):
    """Closes the connection where its pool was closed first; psycopg_pool's own leaves it open."""

    def run(self) -> None:
        pool = self.pool()
        if pool is None or pool.closed:
            close_for_good(self.conn)
        else:
            self._run(pool)


class _AsyncReturn(AsyncReturnConnection):
    """Does what `_Return` does."""

    async def run(self) -> None:
        pool = self.pool()
        if pool is None or pool.closed:
            await close_for_good_async(self.conn)
        else:
            await self._run(pool)


def return_by_worker(pool: ConnectionPool[Any], task: ReturnConnection) -> None:
    """Have a worker return a connection, or close it where the workers are told to stop."""
    task = _Return(pool, task.conn, task.from_getconn)
    with pool._lock:
        if not pool.closed:
            pool._tasks.put_nowait(task)
            return
    task.run()


def return_by_worker_async(pool: AsyncConnectionPool[Any], task: AsyncReturnConnection) -> None:
    """Do what `return_by_worker` does."""
    if pool.closed:
        task.conn.pgconn.finish()
    else:
        pool._tasks.put_nowait(_AsyncReturn(pool, task.conn, task.from_getconn))


def discard(pool: ConnectionPool[CT], connection: CT) -> None:
    """Have the pool open another one for a connection that was checked out and is not lent.

    psycopg_pool does so with one that fails its ``check``, and counts it as lost.
    """
    try:
        pool._close_connection(connection)
    finally:
        pool._putconn(connection, from_getconn=True)


async def discard_async(pool: AsyncConnectionPool[ACT], connection: ACT) -> None:
    """Do what `discard` does."""
    try:
        await pool._close_connection(connection)
    finally:
        await pool._putconn(connection, from_getconn=True)


def fail_waiting(pool: ConnectionPool[Any], error: PoolTimeout) -> None:
    """Have clients that wait for a connection get `error`; `wait` for a full pool continues."""
    with pool._lock:
        waiting, full = _take_waiting(pool)
    for client in waiting:
        client.fail(error)
    if full is not None:
        full.set()


async def fail_waiting_async(pool: AsyncConnectionPool[Any], error: PoolTimeout) -> None:
    """Do what `fail_waiting` does."""
    async with pool._lock:
        waiting, full = _take_waiting(pool)
    for client in waiting:
        await client.fail(error)
    if full is not None:
        full.set()


def _take_waiting(pool: Any) -> tuple[list[Any], Any]:
    waiting = list(pool._waiting)
    pool._waiting.clear()
    return waiting, pool._pool_full_event


def set_expiry(pool: ConnectionPool[Any] | AsyncConnectionPool[Any], connection: Any) -> None:
    """Have ``max_lifetime`` and `drain` apply to a connection that the pool did not open itself."""
    pool._set_connection_expiry_date(connection)


def count_connect(
    pool: ConnectionPool[Any] | AsyncConnectionPool[Any], seconds: float, *, failed: bool
) -> None:
    """Count a connect that the pool did not make itself."""
    pool._stats[pool._CONNECTIONS_NUM] += 1
    if failed:
        pool._stats[pool._CONNECTIONS_ERRORS] += 1
    else:
        pool._stats[pool._CONNECTIONS_MS] += int(1000.0 * seconds)


def count_lent(connections: Iterable[Any]) -> int:
    """Return how many of these the pool has marked as its own: it does while they are not idle."""
    return sum(connection._pool is not None for connection in connections)


def uncount_request(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> None:
    """Take back that a request was counted, which is not the user's."""
    pool._stats[pool._REQUESTS_NUM] -= 1


def count_refused(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> None:
    """Count a request that the pool did not see."""
    pool._stats[pool._REQUESTS_NUM] += 1
    pool._stats[pool._REQUESTS_ERRORS] += 1
