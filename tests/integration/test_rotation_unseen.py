"""A rotation refuses no caller, grows no pool, counts nothing, calls no function of the user's."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import PATIENCE
from psycopg_pool import TooManyRequests
from twins import AsyncTwin, wait_until

from ephemeral_creds import RotationPolicy
from ephemeral_creds.pool import rotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool


@contextmanager
def clients(pool: RotatingConnectionPool[Any], count: int) -> Iterator[list[int]]:
    """Run so many clients, each of which has one request at a time; yield what each has done.

    None may fail, and the pool is at its usual size before the block begins.
    """
    done = threading.Event()
    failures: list[BaseException] = []
    requests = [0] * count

    def work(number: int) -> None:
        while not done.is_set():
            try:
                requests[number] += 1
                with pool.connection(PATIENCE) as connection:
                    connection.execute("SELECT pg_sleep(0.002)")
            except BaseException as error:
                failures.append(error)

    with ExitStack() as stack:
        for number in range(count):
            thread = threading.Thread(target=work, args=(number,))
            stack.callback(thread.join)
            thread.start()
        stack.callback(done.set)
        wait_until(lambda: min(requests) > 3)
        yield requests
    assert failures == []


def rotate(setup: Setup, times: int) -> None:
    for generation in range(2, times + 2):
        setup.rotate(generation)
        setup.revoked(generation - 1)


def counting(setup: Setup) -> tuple[type[Any], list[int]]:
    """Return a connection class, and a list with an entry for each connect."""
    connects: list[int] = []

    class Counting(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            connects.append(1)
            return super().connect(*args, **kwargs)

    class AsyncCounting(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            connects.append(1)
            return await super().connect(*args, **kwargs)

    return AsyncCounting if isinstance(setup.twin, AsyncTwin) else Counting, connects


@pytest.mark.parametrize(("size", "overshoot"), [(2, 1), (4, 2), (4, 10)])
def test_it_refuses_no_client_where_the_places_suffice(
    setup: Setup, size: int, overshoot: int
) -> None:
    pool = setup.pool(
        min_size=size, max_size=size, max_waiting=2, rotation=RotationPolicy(overshoot=overshoot)
    )
    with clients(pool, size + 2):
        rotate(setup, 15)
    assert pool.get_stats().get("requests_errors", 0) == 0


def test_it_keeps_a_place_for_each_client(setup: Setup) -> None:
    """As many connections as clients, so that none ever waits: the next one would be refused."""
    pool = setup.pool(min_size=4, max_size=4, rotation=RotationPolicy(overshoot=4))
    with clients(pool, 4):
        rotate(setup, 15)
    assert pool.get_stats().get("requests_queued", 0) == 0


@pytest.mark.parametrize("overshoot", [2, 10])
def test_it_grows_no_pool(setup: Setup, overshoot: int) -> None:
    pool = setup.pool(min_size=5, max_size=10, rotation=RotationPolicy(overshoot=overshoot))
    with clients(pool, 5):
        rotate(setup, 15)
    assert pool.get_stats()["pool_size"] == 5


def test_it_counts_events_of_users_and_servers(setup: Setup) -> None:
    connection_class, connects = counting(setup)
    pool = setup.pool(
        min_size=4,
        max_size=8,
        connection_class=connection_class,
        rotation=RotationPolicy(overshoot=10),
    )
    with clients(pool, 4) as requests:
        rotate(setup, 10)
    wait_until(lambda: pool.status().stale == 0)
    stats = pool.get_stats()
    assert stats["requests_num"] == sum(requests)
    assert stats["connections_num"] == len(connects)
    faults = ("requests_errors", "connections_errors", "connections_lost", "returns_bad")
    assert [name for name in faults if stats.get(name)] == []


def test_it_counts_how_long_connections_took(setup: Setup) -> None:
    pool = setup.pool(min_size=2, configure=lambda _: None)
    pool.pop_stats()
    rotate(setup, 20)
    stats = pool.get_stats()
    assert stats["connections_num"] >= 40
    # A login with a password takes milliseconds; whole ones are counted.
    assert stats["connections_ms"] >= stats["connections_num"] / 2


def test_it_neither_checks_nor_resets_idle_connections(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOOK_AGAIN", 0.01)
    calls: list[str] = []
    pool = setup.pool(
        min_size=4,
        check=lambda _: calls.append("check"),
        reset=lambda _: calls.append("reset"),
        rotation=RotationPolicy(park=0.05),
    )
    borrowed = pool.getconn()
    assert calls == ["check"]
    setup.rotate(2)
    wait_until(lambda: pool.status().connections == {1: 1, 2: 3})
    # One that is held is looked for by and by, and others are left alone meanwhile.
    assert not threading.Event().wait(0.5)
    assert calls == ["check"]
    pool.putconn(borrowed)
    setup.revoked(1)
    assert set(calls) <= {"check", "reset"}
    assert len(calls) <= 2


def test_a_check_that_fails_holds_up_none(setup: Setup) -> None:
    failing = threading.Event()

    def check(_: object) -> None:
        if failing.is_set():
            raise ValueError("a check with a mistake of its own")

    pool = setup.pool(min_size=3, check=check)
    failing.set()
    rotate(setup, 3)
    setup.provider.wait_for_sessions({4: 3})
    failing.clear()
    with pool.connection(PATIENCE):
        pass


def test_a_connection_is_returned_once(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1, rotation=RotationPolicy(park=PATIENCE))
    borrowed = pool.getconn()
    setup.rotate(2)
    wait_until(lambda: setup.provider.sessions() == {setup.role(1): 1, setup.role(2): 1})
    pool.putconn(borrowed)
    with pytest.raises(ValueError, match="doesn't come from any pool"):
        pool.putconn(borrowed)
    setup.revoked(1)
    setup.provider.wait_for_sessions({2: 1})


def test_a_replacement_reaches_its_max_lifetime_like_any_other(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1, max_lifetime=3600.0)
    rotate(setup, 1)
    first = pool.getconn()
    pid = first.info.backend_pid
    pool.drain()
    pool.putconn(first)
    with pool.connection(PATIENCE) as second:
        assert second.info.backend_pid != pid


def test_one_client_more_than_there_are_places_is_refused(setup: Setup) -> None:
    """The counterpart: what is never refused above is not never refused at all."""
    pool = setup.pool(min_size=1, max_size=1, max_waiting=1)
    with pool.connection():
        waiting = threading.Thread(target=lambda: pool.putconn(pool.getconn(PATIENCE)))
        waiting.start()
        wait_until(lambda: pool.get_stats()["requests_waiting"] == 1)
        with pytest.raises(TooManyRequests):
            pool.getconn()
    waiting.join()
