"""Rotation on a real PostgreSQL: what psycopg_pool's naive recipes get wrong, and our promises.

The names D1 to D13 are those of docs/explanation/rules.md. Both pools run each scenario.
"""

from __future__ import annotations

import inspect
import logging
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from minting import PATIENCE
from twins import EAGER, user_of, wait_until, work_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CredentialKeeper,
    RotatingConnectionPool,
    RotationPolicy,
)
from ephemeral_creds.events import PoolRotated
from ephemeral_creds.exceptions import KeeperClosed, NotReady, ProviderUnavailable

if TYPE_CHECKING:
    from twins import Setup

METHODS = (
    "open", "wait", "connection", "getconn", "putconn", "resize", "check", "drain", "close",
    "get_stats", "pop_stats",
)  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RotatingConnectionPool, psycopg_pool.ConnectionPool),
        (AsyncRotatingConnectionPool, psycopg_pool.AsyncConnectionPool),
    ],
)
def test_everything_of_psycopgs_pool_is_there(ours: type[Any], theirs: type[Any]) -> None:
    for name in (*METHODS, "__init__"):
        parameters = inspect.signature(getattr(ours, name)).parameters.keys()
        expected = inspect.signature(getattr(theirs, name)).parameters.keys()
        # The async pool cannot be opened by its constructor, which psycopg_pool deprecates.
        assert expected - {"open"} <= parameters, name
        assert name == "__init__" or parameters == expected, name


def test_both_pools_have_the_same_names_and_parameters() -> None:
    def public(pool: type[Any]) -> set[str]:
        return {name for name in vars(pool) if not name.startswith("_")}

    assert public(RotatingConnectionPool) == public(AsyncRotatingConnectionPool)
    sync, twin = (
        inspect.signature(pool.__init__).parameters.keys()
        for pool in (RotatingConnectionPool, AsyncRotatingConnectionPool)
    )
    assert sync == twin


class TestRotation:
    def test_d8_moves_idle_connections_too_and_then_revokes(self, setup: Setup) -> None:
        pool = setup.pool(min_size=5)
        setup.provider.wait_for_sessions({1: 5})
        setup.rotate(2)
        setup.revoked(1)
        setup.provider.wait_for_sessions({2: 5})
        assert setup.provider.roles() == [setup.role(2)]
        (rotated,) = setup.events.wait_for(PoolRotated)
        assert isinstance(rotated, PoolRotated)
        assert rotated.connections == 5
        assert pool.get_stats()["pool_size"] == 5

    def test_d1_a_connect_in_flight_during_the_rotation_does_not_survive(
        self, setup: Setup
    ) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(min_size=1, max_size=2, connection_class=gate)
        gate.reached.acquire(timeout=PATIENCE)
        with pool.connection():
            gate.opened.clear()
            waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
            waiter.start()
            # The pool grows: it has resolved generation 1 and hangs in connect().
            assert gate.reached.acquire(timeout=PATIENCE)
            setup.provider.change()
            # The proof of generation 2 hangs there too; now both continue.
            assert gate.reached.acquire(timeout=PATIENCE)
            gate.opened.set()
            setup.published(2)
            waiter.join(PATIENCE)
        setup.revoked(1)
        assert set(setup.provider.sessions()) == {setup.role(2)}

    def test_d2_old_connections_serve_until_there_are_new_ones(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(min_size=3, connection_class=gate)
        setup.rotate(2)
        setup.revoked(1)
        # The last slot may still be on its way through the gate.
        wait_until(lambda: pool.get_stats()["pool_available"] == 3)
        gate.opened.clear()
        setup.provider.change()
        assert gate.reached.acquire(timeout=PATIENCE)
        connections = [pool.getconn(timeout=1.0) for _ in range(3)]
        assert {user_of(c) for c in connections} == {setup.role(2)}
        for connection in connections:
            connection.rollback()
            pool.putconn(connection)
        gate.opened.set()
        setup.revoked(2)
        setup.provider.wait_for_sessions({3: 3})

    @pytest.mark.slow
    def test_borrowed_ones_are_waited_for_without_connecting(self, setup: Setup) -> None:
        """Nothing to replace comes back for many times as long as a replacement is parked."""
        gate = setup.twin.gate()
        pool = setup.pool(
            min_size=2, connection_class=gate, rotation=RotationPolicy(overshoot=1, park=0.02)
        )
        borrowed = [pool.getconn() for _ in range(2)]
        while gate.reached.acquire(blocking=False):
            pass
        setup.rotate(2)
        # The proof, which was closed again.
        assert gate.reached.acquire(timeout=PATIENCE)
        assert not gate.reached.acquire(timeout=0.5)
        for connection in borrowed:
            pool.putconn(connection)
        setup.revoked(1)

    @pytest.mark.parametrize("overshoot", [1, 2, 5])
    def test_never_more_than_max_size_and_overshoot(self, setup: Setup, overshoot: int) -> None:
        pool = setup.pool(min_size=8, max_size=8, rotation=RotationPolicy(overshoot=overshoot))
        with ExitStack() as stack:
            done = threading.Event()
            for _ in range(8):
                thread = threading.Thread(target=work_until, args=(pool, done))
                stack.callback(thread.join)
                thread.start()
            stack.callback(done.set)
            for generation in range(2, 7):
                setup.rotate(generation)
                setup.revoked(generation - 1)
        assert 8 < pool.peak_connections <= 8 + overshoot

    def test_busy_connections_move_when_they_are_returned(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2)
        with pool.connection() as borrowed:
            setup.rotate(2)
            assert user_of(borrowed) == setup.role(1)
            assert setup.role(1) in setup.provider.roles()
        setup.revoked(1)
        assert borrowed.closed
        setup.provider.wait_for_sessions({2: 2})

    def test_d13_no_request_is_lost_while_the_pool_moves(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, max_size=6)
        done = threading.Event()
        failures: list[BaseException] = []
        workers = [
            threading.Thread(target=work_until, args=(pool, done, failures)) for _ in range(12)
        ]
        for worker in workers:
            worker.start()
        for generation in range(2, 12):
            setup.rotate(generation)
            setup.revoked(generation - 1)
        done.set()
        for worker in workers:
            worker.join()
        assert failures == []
        assert pool.get_stats().get("requests_errors", 0) == 0

    def test_several_pools_on_one_keeper_rotate_together(self, setup: Setup) -> None:
        keeper = CredentialKeeper(setup.provider, refresh=EAGER, observers=[setup.events])
        with (
            keeper,
            setup.make(keeper, min_size=2) as writer,
            setup.make(keeper, min_size=3) as reader,
        ):
            writer.wait(PATIENCE)
            reader.wait(PATIENCE)
            with reader.connection() as borrowed:
                setup.rotate(2)
                setup.events.wait_for(PoolRotated, 1)
                assert "revoke 1" not in setup.provider.calls
                assert user_of(borrowed) == setup.role(1)
            setup.revoked(1)
            setup.provider.wait_for_sessions({2: 5})
            writer.close()
            assert keeper.status().ready
        assert setup.provider.roles() == []

    def test_the_statistics_are_those_of_the_users(self, setup: Setup) -> None:
        pool = setup.pool(min_size=3)
        for _ in range(7):
            with pool.connection():
                pass
        setup.rotate(2)
        setup.revoked(1)
        stats = pool.get_stats()
        assert stats["requests_num"] == 7
        assert stats.get("returns_bad", 0) == 0
        pool.pop_stats()
        assert pool.get_stats().get("requests_num", 0) == 0

    def test_a_rotation_is_no_incident_in_the_log(
        self, setup: Setup, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = setup.pool(min_size=3)
        setup.rotate(2)
        setup.revoked(1)
        pool.close()
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    def test_d11_drain_before_the_pool_is_open_has_nothing_to_do(self, setup: Setup) -> None:
        pool = setup.make(min_size=2)
        pool.drain()
        pool.open(wait=True, timeout=PATIENCE)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)

    def test_drain_replaces_connections_without_new_credentials(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, max_size=2)
        first = pool.getconn()
        second = pool.getconn()
        pids = {first.info.backend_pid, second.info.backend_pid}
        pool.putconn(second)
        pool.drain()
        pool.putconn(first)
        connections = [pool.getconn(PATIENCE) for _ in range(2)]
        assert pids.isdisjoint(c.info.backend_pid for c in connections)
        for connection in connections:
            assert user_of(connection) == setup.role(1)
            connection.rollback()
            pool.putconn(connection)
        assert setup.provider.calls == ["fetch"]

    def test_two_rotations_in_a_row(self, setup: Setup) -> None:
        """The second comes before the first has moved anything."""
        pool = setup.pool(min_size=3, rotation=RotationPolicy(park=0.2))
        with pool.connection() as borrowed:
            setup.rotate(2)
            setup.rotate(3)
            assert user_of(borrowed) == setup.role(1)
        setup.revoked(2)
        setup.provider.wait_for_sessions({3: 3})
        assert setup.provider.roles() == [setup.role(3)]


class TestRefresh:
    def test_returns_when_the_new_ones_are_in_use(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2)
        grant = pool.refresh(PATIENCE)
        assert (grant.generation, grant.credentials.username) == (2, setup.role(2))
        setup.revoked(1)
        setup.provider.wait_for_sessions({2: 2})

    def test_all_pools_of_the_keeper_get_them(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        other = setup.pool(pool.keeper, min_size=2)
        assert other.keeper is pool.keeper
        assert other.refresh(PATIENCE) == pool.keeper.current()
        setup.revoked(1)
        setup.provider.wait_for_sessions({2: 3})

    def test_raises_the_providers_error_and_keeps_the_credentials(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        setup.provider.failures["fetch"] = [ProviderUnavailable("away")]
        with pytest.raises(ProviderUnavailable, match="away"):
            pool.refresh(PATIENCE)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)

    def test_before_it_is_open_and_after_it_was_closed(self, setup: Setup) -> None:
        pool = setup.make(min_size=1)
        with pytest.raises(NotReady, match="not been started"):
            pool.refresh(PATIENCE)
        pool.open()
        pool.close()
        with pytest.raises(KeeperClosed):
            pool.refresh(PATIENCE)


def test_a_pool_tells_which_borrowed_connection_is_stale(setup: Setup) -> None:
    pool, other = setup.pool(min_size=1), setup.pool(min_size=1)

    def is_stale(connection: Any) -> bool:
        return pool.is_stale(getattr(connection, "raw", connection))

    with pool.connection() as connection, other.connection() as stranger:
        assert not is_stale(connection)
        pool.refresh(PATIENCE)
        assert is_stale(connection)
        assert not is_stale(stranger)
    with pool.connection() as connection:
        assert not is_stale(connection)
