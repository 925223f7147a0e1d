"""Connections that are still borrowed when the lease of their credentials is about to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import PATIENCE
from twins import EAGER, Worker, user_of, wait_until

from ephemeral_creds import ProviderUnavailable, RefreshPolicy, RotationPolicy
from ephemeral_creds._policy import RefreshPolicy as Policy
from ephemeral_creds.events import BorrowedAtDeadline, LeaseRenewed, LeaseRevoked

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool

SHORT = 1.5
LATE = RefreshPolicy(mint_interval=0.0, retry_initial=0.05, grace=0.0, renew_at=0.5, margin=0.0)
"""No grace: connections are seen to when the deadline has come."""
OFTEN = RefreshPolicy(mint_interval=0.0, retry_initial=0.01, retry_max=0.01)
"""Tries so often that a renewal fits into the tenth of a second before a lease's end."""
CANCEL = RotationPolicy(borrowed="cancel")


def short_lived(setup: Setup, **options: Any) -> RotatingConnectionPool[Any]:
    """Open a pool whose first lease soon ends for good, and the later ones never."""
    setup.provider.duration = setup.provider.maximum = SHORT
    pool = setup.pool(**{"min_size": 1, "max_size": 2} | options)
    setup.provider.duration = 3600.0
    return pool


def reported(setup: Setup, count: int = 1) -> BorrowedAtDeadline:
    event = setup.events.wait_for(BorrowedAtDeadline, count)[-1]
    assert isinstance(event, BorrowedAtDeadline)
    return event


class TestLeave:
    def test_d7_what_is_borrowed_past_the_deadline_is_reported_and_left(self, setup: Setup) -> None:
        pool = short_lived(setup)
        with pool.connection() as borrowed:
            setup.published(2)
            late = reported(setup)
            assert (late.generation, late.connections) == (1, 1)
            assert (late.where, late.cancelled) == ((), False)
            assert late.pool == pool.name
            assert user_of(borrowed) == setup.role(1)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(2)

    def test_with_a_trace_it_says_since_when_and_from_where(self, setup: Setup) -> None:
        pool = short_lived(setup, rotation=RotationPolicy(trace_borrowers=True), refresh=LATE)
        with pool.connection():
            late = reported(setup)
        # Borrowed at the start of a lease that has just ended.
        assert SHORT / 2 < late.age < SHORT + PATIENCE
        (where,) = late.where
        here = {"sync": "test_borrowed.py", "async": "twins.py"}[setup.twin.name]
        assert here in where
        assert "ephemeral_creds" not in where.rpartition("/")[2]

    def test_what_is_returned_in_time_is_not_reported(self, setup: Setup) -> None:
        pool = short_lived(setup, refresh=LATE)
        with pool.connection():
            setup.published(2)
        setup.revoked(1)
        # Once revoked, the machine has forgotten the generation: nothing will announce its end.
        assert setup.events.of(BorrowedAtDeadline) == []


class TestCancel:
    def test_a_running_query_is_cancelled_and_its_session_ended(self, setup: Setup) -> None:
        pool = short_lived(setup, rotation=CANCEL)

        def query() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT pg_sleep(3600)")

        running = Worker(query)
        late = reported(setup)
        assert late.cancelled
        with pytest.raises(psycopg.OperationalError):
            running.get()
        setup.provider.wait_for_sessions({2: 1})
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection) == setup.role(2)

    def test_the_lease_is_given_back_before_it_ends(self, setup: Setup) -> None:
        """Half a minute of it is left when the connection is cut off."""
        setup.provider.duration = setup.provider.maximum = 60.0
        pool = setup.pool(
            min_size=1,
            max_size=2,
            rotation=CANCEL,
            refresh=RefreshPolicy(mint_interval=0.0, grace=6.0, margin=0.0),
        )
        with pool.connection() as borrowed:
            setup.rotate(2)
            # As if 54 of the 60 seconds were over.
            expire(pool, 1)
            reported(setup)
            wait_until(lambda: setup.role(1) not in setup.provider.sessions())
            with pytest.raises(psycopg.OperationalError):
                borrowed.execute("SELECT 1")
        setup.revoked(1)
        assert setup.provider.roles() == [setup.role(2)]

    def test_an_idle_borrower_gets_an_error_from_its_next_query(self, setup: Setup) -> None:
        pool = short_lived(setup, rotation=CANCEL)
        borrowed = pool.getconn()
        reported(setup)
        wait_until(lambda: setup.role(1) not in setup.provider.sessions())
        with pytest.raises(psycopg.OperationalError):
            borrowed.execute("SELECT 1")
        pool.putconn(borrowed)
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection) == setup.role(2)

    def test_one_that_is_returned_unused_is_not_lent_again(self, setup: Setup) -> None:
        pool = short_lived(setup, rotation=CANCEL, max_size=1)
        borrowed = pool.getconn()
        reported(setup)
        wait_until(lambda: setup.role(1) not in setup.provider.sessions())
        pool.putconn(borrowed)
        for _ in range(5):
            with pool.connection(PATIENCE) as connection:
                assert user_of(connection) == setup.role(2)


def expire(pool: RotatingConnectionPool[Any], generation: int) -> None:
    """Have the pool see to what is borrowed of `generation`, as its keeper does near the end."""
    rotation = pool._rotation
    (connection,) = rotation.ledger.connections(generation)
    assert connection.lease_generation == generation
    rotation.expire(grant_of(pool, generation))


def grant_of(pool: RotatingConnectionPool[Any], generation: int) -> Any:
    keeper: Any = pool._keeper
    return keeper._machine._generations[generation].grant


class TestGrace:
    def test_it_is_counted_from_the_end_of_the_lease(self, setup: Setup) -> None:
        """A tenth of the lease at most."""
        pool = short_lived(setup)
        grant = grant_of(pool, 1)
        with pool.connection():
            reported(setup)
            status = pool.status().keeper
        assert status.retired == (1,)
        assert Policy(grace=5.0).grace_of(SHORT) == SHORT / 10
        assert grant.lease.expires_at - grant.lease.requested_at == SHORT

    def test_the_old_lease_stays_renewed_while_it_is_borrowed(self, setup: Setup) -> None:
        """Many times over: the borrower outlives the lease's first deadline."""
        setup.provider.duration = 1.0
        pool = setup.pool(min_size=1, max_size=2, refresh=EAGER)
        with pool.connection() as borrowed:
            setup.provider.duration = 1.0
            setup.rotate(2)
            before = setup.provider.calls.count("renew 1")
            wait_until(lambda: setup.provider.calls.count("renew 1") >= before + 3)
            assert setup.events.of(BorrowedAtDeadline) == []
            assert setup.events.of(LeaseRevoked) == []
            assert user_of(borrowed) == setup.role(1)
        setup.revoked(1)
        renewals = setup.provider.calls.count("renew 1")
        seen = len(setup.events.of(LeaseRenewed))
        setup.events.wait_for(LeaseRenewed, seen + 2)
        assert setup.provider.calls.count("renew 1") == renewals

    def test_an_end_that_moved_away_is_announced_once_more(self, setup: Setup) -> None:
        """Vault is away until after the first announcement, comes back, and the lease lives on."""
        setup.provider.duration = 1.0
        pool = setup.pool(min_size=1, max_size=2, refresh=OFTEN)
        with pool.connection() as borrowed:
            setup.provider.duration = 3600.0
            setup.rotate(2)
            setup.provider.duration = 1.0
            renewals = setup.provider.failures["renew"]
            renewals += [ProviderUnavailable("away")] * 1000
            reported(setup)
            renewals.clear()
            setup.events.wait_for(LeaseRenewed, len(setup.events.of(LeaseRenewed)) + 1)
            renewals += [ProviderUnavailable("away")] * 1000
            reported(setup, 2)
            assert user_of(borrowed) == setup.role(1)
