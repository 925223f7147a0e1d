"""What `contrib.sqlalchemy` does inside SQLAlchemy and psycopg, without a public way to do it."""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

import psycopg
import sqlalchemy
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, Pool, QueuePool

from ephemeral_creds.contrib.sqlalchemy.idle import Outcome, replace_idle

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry


class Driver:
    """A connection that is closed, or not."""

    def __init__(self) -> None:
        self.closed = False

    def rollback(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def is_closed(entry: ConnectionPoolEntry) -> bool:
    connection: Any = entry.dbapi_connection
    return connection is None or bool(connection.closed)


def test_the_version_was_looked_at() -> None:
    known = sqlalchemy.__version__.startswith(("2.0.", "2.1."))
    assert known, "look through contrib/sqlalchemy/idle.py and borrowing.py once more"


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        (Pool, "_create_connection", []),
        (QueuePool, "_do_return_conn", ["record"]),
        (NullPool, "_close_connection", ["connection", "terminate"]),
    ],
)
def test_the_methods_are_there(kind: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(kind, name)).parameters) == ["self", *parameters]


@pytest.mark.parametrize("ping", [False, True])
def test_a_pool_says_whether_it_pings(ping: bool) -> None:
    assert Pool(lambda: None, pre_ping=ping)._pre_ping is ping  # type: ignore[arg-type]


def test_idle_connections_of_both_kinds_are_in_a_queue() -> None:
    queue: Any = QueuePool(Driver)._pool  # type: ignore[arg-type]
    assert type(queue.queue) is deque
    assert queue.mutex.acquire(blocking=False)
    queue.mutex.release()
    others: Any = AsyncAdaptedQueuePool(Driver)._pool  # type: ignore[arg-type]
    assert type(others._queue._queue) is deque
    assert not hasattr(others, "mutex")


@pytest.mark.parametrize("lifo", [False, True])
def test_one_idle_connection_is_replaced_at_a_time(lifo: bool) -> None:
    made: list[Driver] = []

    def connect() -> Any:
        made.append(Driver())
        return made[-1]

    pool = QueuePool(connect, use_lifo=lifo)
    borrowed = [pool.connect() for _ in range(3)]
    for proxy in borrowed:
        proxy.close()
    old: set[Any] = set(made)

    def is_old(entry: ConnectionPoolEntry) -> bool:
        return entry.dbapi_connection in old

    for count in range(1, 4):
        assert replace_idle(pool, is_old, is_closed) is Outcome.DONE
        assert len(made) == 3 + count
        assert sum(driver.closed for driver in old) == count
        assert (pool.checkedin(), pool.checkedout()) == (3, 0)
    assert replace_idle(pool, is_old, is_closed) is Outcome.NOTHING
    assert not any(driver.closed for driver in made[3:])


@pytest.mark.parametrize("must_close", [False, True])
def test_an_idle_connection_stays_where_no_other_can_be_opened(must_close: bool) -> None:
    made: list[Driver] = []

    def connect() -> Any:
        if made:
            raise OSError("no other")
        made.append(Driver())
        return made[-1]

    pool = QueuePool(connect)
    pool.connect().close()
    outcome = replace_idle(pool, lambda _: True, lambda _: must_close)
    assert outcome is Outcome.FAILED
    assert made[0].closed is must_close
    assert (pool.checkedin(), pool.checkedout()) == (1, 0)


def test_psycopg_has_adapters_and_notice_handlers_where_they_are_looked_for() -> None:
    connection = psycopg.Connection(psycopg.pq.PGconn())
    assert connection._adapters is None
    assert connection._notice_handlers == []
    adapters = connection.adapters
    assert connection._adapters is adapters
    connection.close()
