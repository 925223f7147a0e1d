"""Connections that are still borrowed when the lease of their credentials is about to end."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import PATIENCE
from twins import AsyncTwin, Worker, user_of, wait_until

from ephemeral_creds import ProviderUnavailable, RotationPolicy
from ephemeral_creds.events import (
    BorrowedAtDeadline,
    LeaseRenewed,
    LeaseRevoked,
    RenewalFailed,
)

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import FakeClock

SHORT = 60.0
GRACE = 5.0
CANCEL = RotationPolicy(borrowed="cancel")


class ShortLived:
    """A pool whose first lease ends for good, and the later ones never."""

    def __init__(self, setup: Setup, **options: Any) -> None:
        self.setup = setup
        self.clock: FakeClock = setup.clock()
        setup.provider.duration = setup.provider.maximum = SHORT
        self.pool: RotatingConnectionPool[Any] = setup.pool(
            **{"min_size": 1, "max_size": 2} | options
        )
        setup.provider.duration = 3600.0

    def is_replaced(self) -> None:
        """Half of the lease is over: its renewal brings too little."""
        self.clock.advance(SHORT / 2)
        self.setup.published(2)

    def ends(self) -> BorrowedAtDeadline:
        """Grace begins; return what is reported."""
        self.is_replaced()
        self.clock.advance(SHORT / 2 - GRACE)
        return reported(self.setup)


def reported(setup: Setup, count: int = 1) -> BorrowedAtDeadline:
    event = setup.events.wait_for(BorrowedAtDeadline, count)[-1]
    assert isinstance(event, BorrowedAtDeadline)
    return event


class TestLeave:
    def test_d7_a_connection_borrowed_past_the_deadline_is_reported_and_left(
        self, setup: Setup
    ) -> None:
        world = ShortLived(setup)
        pool = world.pool
        with pool.connection() as borrowed:
            late = world.ends()
            assert (late.generation, late.connections) == (1, 1)
            assert (late.where, late.cancelled) == ((), False)
            assert late.pool == pool.name
            assert user_of(borrowed) == setup.role(1)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(2)

    def test_with_a_trace_it_says_since_when_and_from_where(self, setup: Setup) -> None:
        world = ShortLived(setup, rotation=RotationPolicy(trace_borrowers=True))
        with world.pool.connection():
            late = world.ends()
        assert 0 < late.age < 3 * PATIENCE
        (where,) = late.where
        here = {"sync": "test_borrowed.py", "async": "twins.py"}[setup.twin.name]
        assert here in where
        assert "ephemeral_creds" not in where.rpartition("/")[2]

    def test_a_connection_that_is_returned_in_time_is_not_reported(self, setup: Setup) -> None:
        world = ShortLived(setup)
        with world.pool.connection():
            world.is_replaced()
        setup.revoked(1)
        # Once revoked, the machine has forgotten the generation: nothing will announce its end.
        assert setup.events.of(BorrowedAtDeadline) == []


class TestCancel:
    def test_a_running_query_is_cancelled_and_its_session_ended(self, setup: Setup) -> None:
        world = ShortLived(setup, rotation=CANCEL)
        pool = world.pool

        def query() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT pg_sleep(3600)")

        running = Worker(query)
        wait_until(lambda: setup.provider.asleep() == [setup.role(1)])
        assert world.ends().cancelled
        with pytest.raises(psycopg.OperationalError):
            running.get()
        setup.provider.wait_for_sessions({2: 1})
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection) == setup.role(2)

    @pytest.mark.parametrize("library", ["libpq 17", "an older one"])
    def test_a_server_that_hears_of_no_cancel(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch, library: str
    ) -> None:
        over = threading.Event()
        setup.stack.callback(over.set)
        capable = library == "libpq 17"

        class Deaf(psycopg.Connection[Any]):
            def cancel_safe(self, *, timeout: float = 30.0) -> None:
                over.wait(timeout if capable else PATIENCE)
                raise psycopg.errors.CancellationTimeout("cancellation timeout expired")

        class AsyncDeaf(psycopg.AsyncConnection[Any]):
            async def cancel_safe(self, *, timeout: float = 30.0) -> None:
                await asyncio.to_thread(over.wait, timeout if capable else PATIENCE)
                raise psycopg.errors.CancellationTimeout("cancellation timeout expired")

        monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: capable)
        deaf = AsyncDeaf if isinstance(setup.twin, AsyncTwin) else Deaf
        world = ShortLived(setup, rotation=CANCEL, connection_class=deaf)
        with world.pool.connection() as borrowed:
            world.ends()
            wait_until(lambda: setup.role(1) not in setup.provider.sessions())
            with pytest.raises(psycopg.OperationalError):
                borrowed.execute("SELECT 1")
        over.set()

    def test_the_lease_is_revoked_before_it_ends(self, setup: Setup) -> None:
        """The clock stands still at five seconds before it."""
        world = ShortLived(setup, rotation=CANCEL)
        with world.pool.connection() as borrowed:
            world.ends()
            wait_until(lambda: setup.role(1) not in setup.provider.sessions())
            with pytest.raises(psycopg.OperationalError):
                borrowed.execute("SELECT 1")
        setup.revoked(1)
        assert setup.provider.roles() == [setup.role(2)]

    def test_an_idle_borrower_gets_an_error_from_its_next_query(self, setup: Setup) -> None:
        world = ShortLived(setup, rotation=CANCEL)
        pool = world.pool
        borrowed = pool.getconn()
        world.ends()
        wait_until(lambda: setup.role(1) not in setup.provider.sessions())
        with pytest.raises(psycopg.OperationalError):
            borrowed.execute("SELECT 1")
        pool.putconn(borrowed)
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection) == setup.role(2)

    def test_one_that_is_returned_unused_is_not_lent_again(self, setup: Setup) -> None:
        world = ShortLived(setup, rotation=CANCEL, max_size=1)
        pool = world.pool
        borrowed = pool.getconn()
        world.ends()
        wait_until(lambda: setup.role(1) not in setup.provider.sessions())
        pool.putconn(borrowed)
        for _ in range(5):
            with pool.connection(PATIENCE) as connection:
                assert user_of(connection) == setup.role(2)


class TestGrace:
    def test_it_is_counted_from_the_end_of_the_lease(self, setup: Setup) -> None:
        world = ShortLived(setup)
        with world.pool.connection():
            world.is_replaced()
            world.clock.advance(SHORT / 2 - GRACE - 0.5)
            # What the keeper does next, it does after it has looked at the clock.
            setup.rotate(3)
            assert setup.events.of(BorrowedAtDeadline) == []
            world.clock.advance(0.5)
            assert reported(setup).generation == 1
            assert 1 in world.pool.status().keeper.retired

    def test_the_old_lease_stays_renewed_while_it_is_borrowed(self, setup: Setup) -> None:
        """Many times over: the borrower outlives the lease's first deadline."""
        clock = setup.clock()
        setup.provider.duration = SHORT
        pool = setup.pool(min_size=1, max_size=2)
        with pool.connection() as borrowed:
            setup.rotate(2)
            for count in (1, 2, 3):
                clock.advance(SHORT / 2)
                setup.events.wait_for(LeaseRenewed, 2 * count)
                assert setup.provider.calls.count("renew 1") == count
            assert setup.events.of(BorrowedAtDeadline) == []
            assert setup.events.of(LeaseRevoked) == []
            assert user_of(borrowed) == setup.role(1)
        setup.revoked(1)
        clock.advance(SHORT / 2)
        setup.events.wait_for(LeaseRenewed, 7)
        assert setup.provider.calls.count("renew 1") == 3

    def test_an_end_that_moved_away_is_announced_once_more(self, setup: Setup) -> None:
        """Vault is unreachable until after the first announcement; then the lease is renewed."""
        clock = setup.clock()
        setup.provider.duration = SHORT
        pool = setup.pool(min_size=1, max_size=2)
        with pool.connection() as borrowed:
            setup.provider.duration = 3600.0
            setup.rotate(2)
            setup.provider.duration = SHORT
            renewals = setup.provider.failures["renew"]
            renewals += [ProviderUnavailable("away")] * 1000
            clock.advance(SHORT / 2)
            setup.events.wait_for(RenewalFailed)
            clock.advance(SHORT / 2 - GRACE)
            reported(setup)
            # The next one is planned.
            setup.events.wait_for(RenewalFailed, 2)
            renewals.clear()
            clock.advance(1.0)
            setup.events.wait_for(LeaseRenewed)
            renewals += [ProviderUnavailable("away")] * 1000
            clock.advance(SHORT - GRACE)
            reported(setup, 2)
            assert user_of(borrowed) == setup.role(1)


def test_a_borrower_may_ask_whether_to_return_its_connection(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=2)
    borrowed = pool.getconn()
    connection = getattr(borrowed, "raw", borrowed)
    assert not pool.is_stale(connection)
    assert not pool.needs_test(connection)
    pool.verify_connections()
    assert pool.needs_test(connection)
    setup.rotate(2)
    wait_until(lambda: pool.is_stale(connection))
    pool.putconn(borrowed)
    setup.revoked(1)


def test_a_borrower_is_told_to_return_its_connection_after_a_suspend(setup: Setup) -> None:
    clock = setup.clock()
    pool = setup.pool(min_size=1, max_size=1)
    borrowed = pool.getconn()
    connection = getattr(borrowed, "raw", borrowed)
    clock.suspend(2 * setup.provider.duration)
    assert pool.needs_test(connection)
    pool.putconn(borrowed)
