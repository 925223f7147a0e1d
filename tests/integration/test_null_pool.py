"""The pool that keeps no connection: psycopg's rules, and ours while credentials change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from twins import Worker, rotate_ten_times, user_of, wait_until

from ephemeral_creds import (
    AccessDenied,
    CheckoutFailed,
    CredentialsExpired,
    DatabaseUnreachable,
    LoginRefused,
    NotReady,
    RotationPolicy,
)
from ephemeral_creds.events import CredentialsPublished, LeaseRevoked, LoginRejected, PoolRotated

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool

OFTEN = RotationPolicy(retry_initial=0.05, retry_max=0.05)


def backend_of(connection: Any) -> int:
    return int(connection.execute("SELECT pg_backend_pid()").fetchone()[0])


def waiting(pool: RotatingConnectionPool[Any], count: int = 1) -> None:
    wait_until(lambda: pool.get_stats().get("requests_waiting") == count)


class TestAsPsycopgsOwn:
    def test_it_is_one(self, setup: Setup) -> None:
        pool = setup.pool(null=True)
        kinds = psycopg_pool.NullConnectionPool, psycopg_pool.AsyncNullConnectionPool
        assert isinstance(getattr(pool, "raw", pool), kinds)

    def test_nothing_is_kept(self, setup: Setup) -> None:
        pool = setup.pool(null=True)
        setup.provider.wait_for_sessions({})
        backends = set()
        for _ in range(2):
            with pool.connection() as connection:
                backends.add(backend_of(connection))
            setup.provider.wait_for_sessions({})
        assert len(backends) == 2
        stats = pool.get_stats()
        assert [stats.get(f"pool_{name}") for name in ("min", "max", "size")] == [0, 0, 0]

    def test_without_max_size_nobody_waits(self, setup: Setup) -> None:
        pool = setup.pool(null=True)
        connections = [pool.getconn() for _ in range(6)]
        assert len({backend_of(connection) for connection in connections}) == 6
        for connection in connections:
            connection.rollback()
            pool.putconn(connection)

    def test_at_max_size_the_first_that_waits_gets_what_is_returned(self, setup: Setup) -> None:
        resets: list[object] = []
        pool = setup.pool(null=True, max_size=1, max_waiting=1, reset=resets.append)
        first = pool.getconn()
        backend = backend_of(first)
        first.rollback()
        client = Worker(pool.getconn, PATIENCE)
        waiting(pool)
        with pytest.raises(TooManyRequests):
            pool.getconn()
        pool.putconn(first)
        second: Any = client.get()
        assert backend_of(second) == backend
        assert len(resets) == 1
        second.rollback()
        pool.putconn(second)
        setup.provider.wait_for_sessions({})
        assert len(resets) == 1

    def test_a_checkout_at_max_size_times_out(self, setup: Setup) -> None:
        pool = setup.pool(null=True, max_size=1)
        with pool.connection(), pytest.raises(CheckoutFailed, match=r"raise max_size") as caught:
            pool.getconn(BRIEF)
        assert f"after {BRIEF:.2f} sec" in str(caught.value)

    def test_a_checkout_without_time_gets_nothing(self, setup: Setup) -> None:
        pool = setup.pool(null=True)
        with pytest.raises(PoolTimeout, match="no time"):
            pool.getconn(0.0)

    def test_only_max_size_changes(self, setup: Setup) -> None:
        with pytest.raises(ValueError, match="min_size = 0"):
            setup.make(null=True, min_size=1)
        pool = setup.pool(null=True, max_size=1)
        with pytest.raises(ValueError, match="min_size = 0"):
            pool.resize(1, 2)
        pool.resize(0, 2)
        pool.check()
        pool.drain()
        with pool.connection(), pool.connection(PATIENCE):
            pass

    def test_wait_opens_one_for_a_test(self, setup: Setup) -> None:
        calls: list[object] = []
        pool = setup.pool(null=True, configure=calls.append)
        assert len(calls) == 1
        setup.provider.wait_for_sessions({})
        assert pool.get_stats()["pool_size"] == 0

    def test_a_connection_that_is_broken_is_replaced_for_who_waits(self, setup: Setup) -> None:
        pool = setup.pool(null=True, max_size=1)
        with pool.connection(PATIENCE) as connection:
            client = Worker(pool.getconn, PATIENCE)
            waiting(pool)
            connection.close()
        second: Any = client.get()
        assert user_of(second) == setup.role(1)
        pool.putconn(second)

    def test_check_runs_at_each_checkout(self, setup: Setup) -> None:
        calls: list[object] = []
        pool = setup.pool(null=True, check=calls.append)
        for _ in range(2):
            with pool.connection():
                pass
        assert len(calls) == 2


@pytest.mark.slow
class TestRotation:
    @pytest.mark.parametrize("max_size", [None, 2])
    @pytest.mark.parametrize("end_sessions", [False, True], ids=["drop", "drop and end sessions"])
    def test_ten_under_load_fail_nothing(
        self, setup: Setup, max_size: int | None, end_sessions: bool
    ) -> None:
        setup.provider.end_sessions = end_sessions
        pool = setup.pool(null=True, max_size=max_size, timeout=PATIENCE)
        rotate_ten_times(setup, pool, workers=4)
        assert setup.provider.roles() == [setup.role(11)]
        assert pool.peak_connections <= (max_size or 4) + 1
        pool.close()
        assert setup.provider.roles() == []
        assert setup.events.of(LoginRejected) == []

    def test_a_lease_is_revoked_at_once_where_nothing_is_borrowed(self, setup: Setup) -> None:
        pool = setup.pool(null=True)
        for generation in (2, 3):
            setup.rotate(generation)
            setup.revoked(generation - 1)
            # What the new ones were proved with is closed as well.
            setup.provider.wait_for_sessions({})
        assert setup.events.of(PoolRotated) == []
        assert pool.status().connections == {}

    def test_a_borrowed_connection_keeps_its_lease_and_goes_to_no_other_client(
        self, setup: Setup
    ) -> None:
        pool = setup.pool(null=True, max_size=1)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)
            client = Worker(pool.getconn, PATIENCE)
            waiting(pool)
            setup.rotate(2)
            assert user_of(connection) == setup.role(1)
            assert setup.events.of(LeaseRevoked) == []
            # It has been looked at before it is returned: otherwise nothing is left to report.
            wait_until(lambda: pool._rotation._moving_since is not None)
        second: Any = client.get()
        assert user_of(second) == setup.role(2)
        second.rollback()
        pool.putconn(second)
        setup.revoked(1)
        rotated = setup.events.wait_for(PoolRotated)
        assert [event.connections for event in rotated if isinstance(event, PoolRotated)] == [1]
        assert pool.get_stats().get("returns_bad", 0) == 0

    def test_a_role_dropped_by_hand_costs_no_checkout(self, setup: Setup) -> None:
        pool = setup.pool(null=True, max_size=4, timeout=PATIENCE)
        setup.provider._admin.execute(f'DROP ROLE "{setup.role(1)}"'.encode())
        setup.provider._mint(1)
        setup.provider.alter(1, "NOLOGIN")
        clients = [Worker(pool.getconn) for _ in range(4)]
        for client in clients:
            connection: Any = client.get()
            assert user_of(connection) == setup.role(2)
            connection.rollback()
            pool.putconn(connection)
        assert setup.events.of(LoginRejected)

    def test_a_session_without_its_role_goes_to_no_other_client(self, setup: Setup) -> None:
        pool = setup.pool(null=True, max_size=1)
        with pool.connection() as connection:
            client = Worker(pool.getconn, PATIENCE)
            waiting(pool)
            setup.provider._admin.execute(f'DROP ROLE "{setup.role(1)}"'.encode())
            with pytest.raises(psycopg.Error):
                user_of(connection)
            connection.rollback()
        second: Any = client.get()
        assert user_of(second) == setup.role(2)
        second.rollback()
        pool.putconn(second)
        # For the provider to drop.
        setup.provider._mint(1)


class TestFailures:
    def test_a_first_checkout_waits_for_credentials(self, setup: Setup) -> None:
        setup.provider.gate.clear()
        pool = setup.pool(null=True, wait=False, timeout=PATIENCE)
        with pytest.raises(NotReady):
            pool.getconn(BRIEF)
        stats = pool.get_stats()
        assert (stats["requests_num"], stats["requests_errors"]) == (1, 1)
        client = Worker(pool.getconn)
        setup.provider.gate.set()
        connection: Any = client.get()
        pool.putconn(connection)

    def test_an_error_that_only_a_person_can_mend_is_raised_at_once(self, setup: Setup) -> None:
        setup.provider.failures["fetch"] = [AccessDenied("no policy for it", status=403)] * 1000
        pool = setup.pool(null=True, wait=False)
        begun = time.monotonic()
        with pytest.raises(AccessDenied, match="no policy for it"):
            pool.getconn(PATIENCE)
        assert time.monotonic() - begun < PATIENCE / 2

    def test_a_close_ends_the_wait(self, setup: Setup) -> None:
        setup.provider.gate.clear()
        pool = setup.pool(null=True, wait=False)
        client = Worker(pool.getconn, PATIENCE)
        closer = Worker(pool.close)
        # Before the keeper is closed, which waits for the provider.
        assert isinstance(client.join().error, PoolClosed)
        setup.provider.gate.set()
        closer.get()

    def test_an_unreachable_server_is_an_error_at_once(self, setup: Setup) -> None:
        pool = setup.pool(null=True, conninfo="host=127.0.0.1 port=1 dbname=postgres", wait=False)
        begun = time.monotonic()
        with pytest.raises(DatabaseUnreachable) as caught:
            pool.getconn(PATIENCE)
        assert time.monotonic() - begun < PATIENCE / 2
        assert "after 60" not in str(caught.value)
        status = pool.status()
        assert (status.last_error_reason, status.connections) == ("unreachable", {})
        assert setup.provider.calls.count("fetch") == 1

    def test_it_is_ready_again_when_another_connect_is_worth_a_try(self, setup: Setup) -> None:
        away: dict[str, object] = {}
        rotation = RotationPolicy(retry_initial=0.5)
        pool = setup.pool(null=True, kwargs=lambda: away, rotation=rotation)
        assert pool.status().ready
        away["port"] = 1
        with pytest.raises(DatabaseUnreachable):
            pool.getconn(PATIENCE)
        assert not pool.status().ready
        away.clear()
        wait_until(lambda: pool.status().ready)
        assert pool.status().last_error_reason == "unreachable"
        with pool.connection():
            assert pool.status().last_error is None

    def test_refused_logins_wait_for_other_credentials(self, setup: Setup) -> None:
        setup.provider.login = "NOLOGIN"
        pool = setup.pool(null=True, wait=False, rotation=OFTEN)
        setup.events.wait_for(CredentialsPublished)
        with pytest.raises(LoginRefused):
            pool.getconn(5 * BRIEF)
        setup.provider.login = "LOGIN"
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection).startswith(setup.prefix)

    def test_expired_ones_are_waited_for_as_well(self, setup: Setup) -> None:
        clock = setup.clock()
        pool = setup.pool(null=True)
        setup.provider.gate.clear()
        clock.advance(7200.0)
        with pytest.raises(CredentialsExpired):
            pool.getconn(5 * BRIEF)
        client = Worker(pool.getconn, PATIENCE)
        setup.provider.gate.set()
        connection: Any = client.get()
        assert user_of(connection) == setup.role(2)
        connection.rollback()
        pool.putconn(connection)
