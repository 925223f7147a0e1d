"""What `psycopg_pool_quirks` relies on is still so inside psycopg_pool; no user has to find out."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import socket
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import PGconn, TransactionStatus
from psycopg_pool import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
    PoolTimeout,
)
from psycopg_pool import pool as pool_module
from psycopg_pool import pool_async as pool_async_module
from psycopg_pool.base import AttemptWithBackoff

from ephemeral_creds.pool import psycopg_pool_quirks as quirks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POOLS: list[Any] = [ConnectionPool, AsyncConnectionPool]


class Line:
    """As much of a `psycopg.pq.PGconn` as is looked at."""

    transaction_status: TransactionStatus = TransactionStatus.IDLE


class Session:
    """A connection without a server."""

    _pool: Any = None

    def __init__(self) -> None:
        self.pgconn = Line()

    def close(self) -> None:
        self.pgconn.transaction_status = TransactionStatus.UNKNOWN

    @classmethod
    def connect(cls, *_: object, **__: object) -> Session:
        return cls()


class AsyncSession(Session):
    async def close(self) -> None:  # type: ignore[override]
        super().close()

    @classmethod
    async def connect(cls, *_: object, **__: object) -> Session:  # type: ignore[override]
        return cls()


def made(kind: Any, **options: Any) -> Any:
    sessions = Session if issubclass(kind, ConnectionPool) else AsyncSession
    if not issubclass(kind, NullConnectionPool):
        options = {"min_size": 1} | options
    return kind(connection_class=sessions, open=False, **options)


def test_the_version_was_looked_at() -> None:
    assert psycopg_pool.__version__.startswith("3.3."), "look through psycopg_pool_quirks once more"


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_check_pool_putconn", ["conn"]),
        ("_close_connection", ["conn"]),
        ("_add_to_pool", ["conn"]),
        ("_putconn", ["conn", "from_getconn"]),
        ("_set_connection_expiry_date", ["conn"]),
        ("_add_connection", ["attempt", "growing"]),
        ("_connect", ["timeout"]),
        ("schedule_task", ["task", "delay"]),
        ("run_task", ["task"]),
    ],
)
def test_the_methods_are_there(kind: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(kind, name)).parameters) == ["self", *parameters]


@pytest.mark.parametrize("kind", POOLS)
def test_idle_connections_are_in_a_deque_and_counters_in_a_counter(kind: Any) -> None:
    pool = made(kind)
    assert (type(pool._pool), type(pool._stats)) == (deque, Counter)
    quirks.count_connect(pool, 0.25, failed=False)
    quirks.count_connect(pool, 0.25, failed=True)
    stats = pool.get_stats()
    assert [stats[f"connections_{name}"] for name in ("num", "ms", "errors")] == [2, 250, 1]
    quirks.count_refused(pool)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"]) == (1, 1)
    quirks.uncount_request(pool)
    assert pool.get_stats().get("requests_num", 0) == 0


def test_a_new_one_takes_the_place_of_an_idle_one() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        pool.wait()
        (old,) = pool._pool
        assert quirks.has_idle(pool, lambda c: c is old)
        new = Session()
        assert quirks.replace_idle(pool, lambda _: False, new) is None
        quirks.set_expiry(pool, new)
        assert quirks.replace_idle(pool, lambda c: c is old, new) is old
        assert pool.getconn() is new
        assert pool.get_stats()["pool_size"] == 1
        pool.putconn(new)
        assert not quirks.has_idle(pool, lambda c: c is old)


def test_a_new_one_takes_the_place_of_one_that_is_returned() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        old, new = pool.getconn(), Session()
        quirks.set_expiry(pool, new)
        assert quirks.count_lent([old, new]) == 1
        quirks.check_borrowed(pool, old)
        quirks.replace_returned(pool, old, new)
        assert old.pgconn.transaction_status == TransactionStatus.UNKNOWN
        with pytest.raises(ValueError, match="doesn't come from any pool"):
            quirks.check_borrowed(pool, old)
        assert quirks.count_lent([old, new]) == 0
        assert pool.getconn() is new
        pool.putconn(new)
        assert pool.get_stats().get("returns_bad", 0) == 0


def test_another_one_is_opened_for_one_that_is_discarded() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        old = pool.getconn()
        quirks.discard(pool, old)
        new = pool.getconn()
        assert new is not old
        pool.putconn(new)
        stats = pool.get_stats()
        assert (stats["connections_lost"], stats.get("returns_bad", 0)) == (1, 0)


@pytest.mark.parametrize("waits_for", ["connection", "pool"])
def test_a_waiting_client_is_released(waits_for: str) -> None:
    """For a connection by an error, for a full pool as if it were one."""
    error = PoolTimeout("no use")
    pool = made(ConnectionPool, timeout=60.0, min_size=0, max_size=1)
    with pool:
        held = pool.getconn()
        if waits_for == "pool":
            pool._min_size = 1
        wait = pool.getconn if waits_for == "connection" else pool.wait
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(wait)
            while not (pool._waiting or pool._pool_full_event):
                pass
            quirks.fail_waiting(pool, error)
            if waits_for == "pool":
                waiting.result(60.0)
            else:
                with pytest.raises(PoolTimeout):
                    waiting.result(60.0)
        assert pool.get_stats()["requests_waiting"] == 0
        pool.putconn(held)


def test_the_async_pool_lets_go_as_well() -> None:
    async def scenario() -> None:
        async with made(AsyncConnectionPool, timeout=60.0, min_size=0, max_size=1) as pool:
            held = await pool.getconn()
            pool._min_size = 1
            waiting = asyncio.gather(pool.getconn(), pool.wait(), return_exceptions=True)
            while not (pool._waiting and pool._pool_full_event):  # noqa: ASYNC110
                await asyncio.sleep(0)
            await quirks.fail_waiting_async(pool, PoolTimeout("no use"))
            refused, full = await waiting
            assert isinstance(refused, PoolTimeout)
            assert full is None
            await pool.putconn(held)

    asyncio.run(scenario())


@pytest.mark.parametrize("module", [pool_module, pool_async_module])
def test_a_task_that_returns_a_connection_knows_it(module: Any) -> None:
    task = module.ReturnConnection(made(ConnectionPool), conn := Session(), from_getconn=True)
    assert (task.conn, task.from_getconn, callable(task.run)) == (conn, True, True)
    assert list(inspect.signature(module.ReturnConnection._run).parameters) == ["self", "pool"]


def test_the_async_pool_does_the_same() -> None:
    async def scenario() -> None:
        async with made(AsyncConnectionPool, timeout=5.0) as pool:
            await pool.wait()
            (old,) = pool._pool
            new, newest = AsyncSession(), AsyncSession()
            quirks.set_expiry(pool, new)
            quirks.set_expiry(pool, newest)
            assert await quirks.replace_idle_async(pool, lambda c: c is old, new) is old
            assert await pool.getconn() is new
            await quirks.replace_returned_async(pool, new, newest)
            assert await pool.getconn() is newest
            await quirks.discard_async(pool, newest)
            last = await pool.getconn()
            assert last is not newest
            await pool.putconn(last)

    asyncio.run(scenario())


# -- closing -----------------------------------------------------------------------------------


class ClosedForGood:
    """As much of a pool as a connection that is closed looks at."""

    close_returns = True

    def __init__(self) -> None:
        self.returned: list[object] = []

    def putconn(self, connection: object) -> None:
        self.returned.append(connection)


class AsyncClosedForGood(ClosedForGood):
    async def putconn(self, connection: object) -> None:  # type: ignore[override]
        super().putconn(connection)


@pytest.fixture
def connecting() -> Iterator[Callable[[], Any]]:
    """Begin connections that are as good as open: the server has not said no yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        conninfo = f"host=127.0.0.1 port={server.getsockname()[1]}".encode()
        yield lambda: PGconn.connect_start(conninfo)


def test_a_connection_of_a_pool_may_be_returned_by_its_close(connecting: Callable[[], Any]) -> None:
    connection: Any = psycopg.Connection(connecting())
    connection._pool = pool = ClosedForGood()
    connection.close()
    assert pool.returned == [connection]
    assert not connection.closed
    quirks.close_for_good(connection)
    assert pool.returned == [connection]
    assert connection.closed


def test_an_async_connection_of_a_pool_may_be_returned_by_its_close(
    connecting: Callable[[], Any],
) -> None:
    async def scenario() -> None:
        connection: Any = psycopg.AsyncConnection(connecting())
        connection._pool = pool = AsyncClosedForGood()
        await connection.close()
        assert pool.returned == [connection]
        assert not connection.closed
        await quirks.close_for_good_async(connection)
        assert connection.closed

    asyncio.run(scenario())


def test_psycopg_does_not_warn_of_an_open_connection_that_has_a_pool(
    connecting: Callable[[], Any], recwarn: pytest.WarningsRecorder
) -> None:
    class Pooled(psycopg.Connection[Any]):
        _pool: Any = None

    for kind, warns in ((Pooled, False), (psycopg.Connection, True)):
        kind(connecting())
        gc.collect()
        assert bool([w for w in recwarn if issubclass(w.category, ResourceWarning)]) is warns


def test_a_close_waits_so_long_for_each_thread_and_all_at_once_for_tasks() -> None:
    class Stuck:
        name = "stuck"

        def __init__(self) -> None:
            self.waited: list[float | None] = []

        def is_alive(self) -> bool:
            return True

        def join(self, timeout: float | None) -> None:
            self.waited.append(timeout)

    threads = [Stuck() for _ in range(4)]
    gather: Any = vars(pool_module)["gather"]
    gather(*threads, timeout=2.0)
    assert [thread.waited for thread in threads] == [[2.0]] * 4
    assert quirks.close_timeout(made(ConnectionPool, num_workers=3), 8.0) == 2.0
    assert quirks.close_timeout_async(made(AsyncConnectionPool, num_workers=3), 8.0) == 8.0


# -- returning by a worker ---------------------------------------------------------------------


def test_a_task_of_a_closed_pool_leaves_its_connection_open() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        connection = pool.getconn()
    task = pool_module.ReturnConnection(pool, connection, from_getconn=True)
    task.run()
    assert connection.pgconn.transaction_status == TransactionStatus.IDLE
    quirks.return_by_worker(pool, task)
    assert connection.pgconn.transaction_status == TransactionStatus.UNKNOWN


def test_a_return_that_is_cancelled_loses_the_connection() -> None:
    async def scenario() -> None:
        async with made(AsyncConnectionPool, timeout=5.0) as pool:
            connection = await pool.getconn()

            async def give_back(*, finish: bool) -> None:
                try:
                    await AsyncConnectionPool.putconn(pool, connection)
                except BaseException:
                    if finish:
                        quirks.finish_return_async(pool, connection)
                    raise

            for finish in (False, True):
                async with pool._lock:
                    connection._pool = pool
                    returning = asyncio.create_task(give_back(finish=finish))
                    while connection._pool is not None:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    returning.cancel()
                    await asyncio.gather(returning, return_exceptions=True)
                    assert connection not in pool._pool
                await asyncio.sleep(0)
            while connection not in pool._pool:  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


# -- connecting --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [pool_module, pool_async_module])
def test_a_connect_can_be_asked_for_again(module: Any) -> None:
    pool = made(ConnectionPool)
    task = module.AddConnection(pool, growing=True)
    assert task.growing
    assert issubclass(module.AddConnection, module.MaintenanceTask)
    assert list(inspect.signature(module.MaintenanceTask.tick).parameters) == ["self"]


def test_a_tick_has_a_worker_run_the_task() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        pool.wait()
        ran: list[object] = []

        class Task(pool_module.MaintenanceTask):
            def _run(self, pool: object) -> None:
                ran.append(pool)

        Task(pool).tick()
        while not ran:
            pass
    assert ran == [pool]
    Task(pool).tick()
    assert ran == [pool]


def test_an_attempt_without_end_is_never_given_up() -> None:
    attempt = AttemptWithBackoff(timeout=math.inf)
    for now in (1.0, 2.0, 1e9):
        attempt.update_delay(now)
        assert not attempt.time_to_give_up(now)


def test_a_checkout_without_time_gets_nothing_although_something_is_idle() -> None:
    with made(ConnectionPool, timeout=5.0) as pool:
        pool.wait()
        with pytest.raises(PoolTimeout):
            pool.getconn(0.0)
        pool.putconn(pool.getconn(quirks.AT_ONCE))


# -- the pools that keep nothing -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [NullConnectionPool, AsyncNullConnectionPool])
def test_a_null_pool_has_its_own_way_to_close(kind: Any) -> None:
    assert list(inspect.signature(kind._maybe_close_connection).parameters) == ["self", "conn"]
    assert kind._maybe_close_connection is not ConnectionPool._maybe_close_connection
    # What is ours is looked up before it, and what it leaves alone comes from the usual pool.
    assert kind.getconn in (ConnectionPool.getconn, AsyncConnectionPool.getconn)
    assert kind.putconn in (ConnectionPool.putconn, AsyncConnectionPool.putconn)
    assert "_connect" not in vars(kind)


def test_a_null_pools_client_connects_with_its_timeout_and_under_the_lock() -> None:
    seen: list[tuple[bool, bool]] = []

    class Pool(NullConnectionPool[Any]):
        def _connect(self, timeout: float | None = None) -> Any:
            lock: Any = self._lock
            seen.append((lock._is_owned(), timeout is not None))
            return super()._connect(timeout)

    with made(Pool) as pool:
        pool.wait(60.0)
        pool.putconn(pool.getconn(5.0))
    # First by a worker, then by the client.
    assert seen == [(False, False), (True, True)]


def test_a_null_pool_has_a_worker_connect_for_a_client_that_waits() -> None:
    with made(NullConnectionPool, max_size=1) as pool:
        first = pool.getconn()
        with ThreadPoolExecutor() as threads:
            client = threads.submit(pool.getconn, 60.0)
            while not pool._waiting:
                pass
            first._pool = None
            assert not pool._maybe_close_connection(first)
            pool._close_connection(first)
            pool.run_task(pool_module.AddConnection(pool))
            second = client.result(60.0)
        assert second is not first
        pool.putconn(second)
        assert pool.get_stats()["pool_size"] == 0
