"""What a pool does while PostgreSQL, the provider or the network fails, and what it then says."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from twins import EAGER, user_of, wait_until

from ephemeral_creds import (
    ConfigurationError,
    DatabaseUnreachable,
    FixedProvider,
    LoginRefused,
    NotReady,
    RefreshPolicy,
    RotationPolicy,
)
from ephemeral_creds.events import CandidateDiscarded, FetchFailed, LoginRejected
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.lifecycle.policy import Tuning
from ephemeral_creds.pool.errors import CheckoutFailed
from ephemeral_creds.testing import TCPProxy

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds.pool.jobs import Job
    from ephemeral_creds.testing import PostgresServer

NEVER_AGAIN = RotationPolicy(retry_initial=3600.0, retry_max=3600.0)
"""Retries a failed connect for one reason only: because new credentials have come."""


class TestFailures:
    def test_r9_a_new_role_that_cannot_log_in_is_never_used(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2)
        setup.provider.login = "NOLOGIN"
        setup.provider.change()
        setup.events.wait_for(LoginRejected, EAGER.tuning.proof_attempts)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)
        setup.provider.login = "LOGIN"
        setup.provider.change()
        setup.published(2)
        (discarded,) = setup.events.of(CandidateDiscarded)
        assert "generation=2, reason='superseded'" in repr(discarded)
        # That one was revoked, and so was the first, in whatever order.
        setup.revoked(2)
        pool.check()

    @pytest.mark.parametrize("min_size", [0, 2])
    def test_d4_d5_new_credentials_serve_waiting_clients_at_once(
        self, setup: Setup, min_size: int
    ) -> None:
        """The next plain retry is an hour away; only the new credentials can have served it."""
        pool = setup.pool(min_size=1, max_size=3, rotation=NEVER_AGAIN)
        setup.provider.failures["fetch"] = [ProviderUnavailable("away")] * 3
        setup.provider.alter(1, "PASSWORD 'changed-behind-our-back'")
        with pool.connection():
            connection = pool.getconn(timeout=PATIENCE)
            assert user_of(connection) == setup.role(2)
            connection.rollback()
            pool.putconn(connection)
        assert setup.events.of(LoginRejected)
        pool.resize(min_size, 3)

    def test_moving_connects_no_more_often_than_the_plan_says(self, setup: Setup) -> None:
        """Each return is a reason to look, and none to connect: not before an hour is over."""
        # One at a time: a second login ahead of the first return might still be accepted. And it
        # stays for as long as the test takes.
        policy = replace(NEVER_AGAIN, overshoot=1, park=3600.0)
        pool = setup.pool(rotation=policy)
        borrowed = [pool.getconn() for _ in range(4)]
        setup.rotate(2)
        setup.provider.failures["fetch"] = [ProviderUnavailable("away")] * 1000
        setup.provider.alter(2, "NOLOGIN")
        pool.putconn(borrowed.pop())
        # The first takes the connection that has proven the new credentials.
        setup.provider.wait_for_sessions({1: 3, 2: 1})
        for connection in borrowed:
            pool.putconn(connection)
        setup.events.wait_for(LoginRejected)
        for _ in range(50):
            with pool.connection() as connection:
                user_of(connection)
        # As many as may be under way at a time.
        assert len(setup.events.of(LoginRejected)) <= policy.overshoot
        setup.provider.failures["fetch"].clear()
        setup.published(3)
        setup.provider.wait_for_sessions({3: 4})

    @pytest.mark.slow
    def test_a_defect_does_not_end_the_moving(
        self, setup: Setup, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = setup.pool(min_size=2)
        jobs = pool._rotation.jobs

        def defective(_: float) -> list[Job]:
            monkeypatch.setattr(pool._rotation, "jobs", jobs)
            raise RuntimeError("a defect")

        monkeypatch.setattr(pool._rotation, "jobs", defective)
        setup.rotate(2)
        setup.revoked(1)
        assert "rotating failed: RuntimeError" in caplog.text

    def test_d6_a_pool_that_lost_everything_comes_back_by_itself(
        self, setup: Setup, own_postgres: PostgresServer
    ) -> None:
        with own_postgres.admin() as admin:
            admin.execute("CREATE ROLE steady LOGIN PASSWORD 'steady-password'")
        given_up = threading.Event()
        pool = setup.make(
            FixedProvider("steady", "steady-password"),
            conninfo=own_postgres.conninfo(),
            min_size=3,
            rotation=RotationPolicy(retry_max=0.5),
            reconnect_timeout=0.2,
            reconnect_failed=lambda _: given_up.set(),
        )
        with pool:
            pool.wait(PATIENCE)
            own_postgres.stop()
            pool.check()
            assert given_up.wait(PATIENCE)
            with pytest.raises(DatabaseUnreachable, match="cannot be reached"):
                pool.getconn(timeout=BRIEF)
            own_postgres.start()
            wait_until(lambda: pool.get_stats()["pool_available"] == 3)

    def test_d9_a_provider_that_hangs_does_not_hold_returns_up(self, setup: Setup) -> None:
        reset = threading.Event()
        pool = setup.pool(min_size=1, max_size=1, reset=lambda _: reset.set())
        with pool.connection():
            setup.provider.gate.clear()
            setup.provider.change()
        assert reset.wait(PATIENCE)
        with pool.connection(timeout=PATIENCE) as connection:
            assert user_of(connection) == setup.role(1)
        setup.provider.gate.set()

    def test_d10_a_timeout_says_that_all_are_in_use(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, max_size=1)
        with pool.connection(), pytest.raises(CheckoutFailed, match="in use") as caught:
            pool.getconn(timeout=BRIEF)
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)

    def test_d10_a_timeout_says_that_logins_are_refused(self, setup: Setup) -> None:
        setup.provider.login = "NOLOGIN"
        pool = setup.pool(wait=False)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(LoginRefused, match="creation_statements") as caught:
            pool.wait(BRIEF)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert "not permitted to log in" in str(caught.value.__cause__)

    def test_d10_a_timeout_says_that_there_are_no_credentials(self, setup: Setup) -> None:
        setup.provider.failures["fetch"] = [ProviderUnavailable("vault is sealed")] * 1000
        pool = setup.pool(wait=False)
        setup.events.wait_for(FetchFailed)
        with pytest.raises(NotReady, match="vault is sealed") as caught:
            pool.getconn(timeout=BRIEF)
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)

    def test_configuration_errors_are_reported_at_once(self, setup: Setup) -> None:
        setup.provider.failures["fetch"] = [ConfigurationError("unknown role")] * 1000
        pool = setup.pool(wait=False)
        with pytest.raises(ConfigurationError, match="unknown role"):
            pool.getconn(timeout=3600.0)

    def test_r10_refused_logins_do_not_mint_without_bound(self, setup: Setup) -> None:
        """The default limiter: two at once, then one every ten seconds."""
        clock = setup.clock()
        setup.provider.login = "NOLOGIN"
        pool = setup.pool(
            wait=False,
            refresh=RefreshPolicy(
                retry_initial=0.01, proof_timeout=0.0, _tuning=Tuning(config_retry=0.01)
            ),
            rotation=RotationPolicy(retry_initial=0.01, retry_max=0.01),
        )
        wait_until(lambda: setup.provider.calls.count("fetch") == 2)
        for seconds in (4.0, 5.0):
            clock.advance(seconds)
            setup.events.wait_for(LoginRejected, len(setup.events.of(LoginRejected)) + 20)
        with pytest.raises(LoginRefused):
            pool.getconn(timeout=BRIEF)
        assert setup.provider.calls.count("fetch") == 2

    def test_an_outage_of_vault_does_not_affect_the_service(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, max_size=3)
        setup.provider.failures["fetch"] = [ProviderUnavailable("away")] * 1000
        setup.provider.change()
        first, second = pool.getconn(), pool.getconn()
        assert user_of(first) == user_of(second) == setup.role(1)
        for connection in (first, second):
            connection.rollback()
            pool.putconn(connection)

    @pytest.mark.parametrize("what", ["configure", "kwargs", "conninfo"])
    def test_an_error_in_a_users_function_is_reported_and_retried_with_a_pause(
        self, setup: Setup, what: str
    ) -> None:
        calls: list[int] = []

        def configure(connection: psycopg.Connection[object]) -> None:
            calls.append(1)
            connection.pgconn.exec_(b"BEGIN")

        def mistaken() -> str:
            calls.append(1)
            raise KeyError("DB_HOST")

        options: dict[str, object] = {what: configure if what == "configure" else mistaken}
        pool = setup.pool(min_size=2, max_size=2, rotation=NEVER_AGAIN, wait=False, **options)
        pool.keeper.wait(PATIENCE)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(
            CheckoutFailed, match=r"left in status INTRANS by configure function <|KeyError at"
        ) as caught:
            pool.getconn(timeout=BRIEF)
        assert not isinstance(caught.value, DatabaseUnreachable)
        assert not pool.status().ready
        # Its connects may have begun together.
        assert len(calls) <= 4

    def test_connections_that_the_network_cut_are_replaced(self, setup: Setup) -> None:
        with TCPProxy(setup.server.host, setup.server.port) as proxy:
            pool = setup.pool(
                conninfo=f"host={proxy.host} port={proxy.port} dbname=postgres sslmode=disable",
                min_size=2,
            )
            proxy.cut()
            proxy.restore()
            pool.check()
            with pool.connection(timeout=PATIENCE) as connection:
                assert user_of(connection) == setup.role(1)
