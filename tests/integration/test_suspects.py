"""Connections whose role is gone: never lent while suspect, and no cost while nothing is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
import psycopg_pool
import pytest
from minting import BRIEF, PATIENCE
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from twins import AsyncTwin, PoolFace, Setup, Worker, user_of, wait_until

from ephemeral_creds import CheckoutFailed, CredentialsExpired, LoginRefused, RotationPolicy
from ephemeral_creds.events import (
    FetchFailed,
    LeaseExpired,
    LoginRejected,
    RenewalFailed,
    ValidUntilPassed,
)
from ephemeral_creds.exceptions import LeaseLost, ProviderUnavailable
from ephemeral_creds.testing import TCPProxy

if TYPE_CHECKING:
    from ephemeral_creds import AsyncRotatingConnectionPool, Grant, Lease, RotatingConnectionPool


def drop(setup: Setup, number: int) -> None:
    """Drop a role under its live sessions."""
    setup.provider._admin.execute(
        sql.SQL("DROP ROLE {}").format(sql.Identifier(setup.role(number)))
    )


def users(pool: RotatingConnectionPool[Any], count: int) -> list[str]:
    """Ask so many connections who they are, by turns."""
    found = []
    for _ in range(count):
        with pool.connection(timeout=PATIENCE) as connection:
            found.append(user_of(connection))
    return found


def fail(connection: Any, wrapped: bool) -> None:
    try:
        user_of(connection)
    except psycopg.Error as error:
        if wrapped:
            raise KeyError("as a service calls it") from error
        raise


async def roll_back_async(pool: AsyncRotatingConnectionPool[Any]) -> None:
    connection = await pool.getconn()
    try:
        await connection.execute("SELECT current_user")
    except psycopg.Error:
        await connection.rollback()
    await pool.putconn(connection)


def queries_of(setup: Setup) -> tuple[list[str], dict[str, Any]]:
    """Return a list that each query is put into, and the options for the pool to do so."""
    seen: list[str] = []

    class Recording(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(str(query))
            return super().execute(query, *args, **kwargs)

    class AsyncRecording(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(str(query))
            return await super().execute(query, *args, **kwargs)

    factory = AsyncRecording if isinstance(setup.twin, AsyncTwin) else Recording
    return seen, {"kwargs": {"cursor_factory": factory}}


class TestCost:
    def test_nothing_is_asked_while_nothing_is_suspect(self, setup: Setup) -> None:
        queries, options = queries_of(setup)
        pool = setup.pool(min_size=2, **options)
        for _ in range(20):
            with pool.connection():
                pass
        setup.rotate(2)
        setup.revoked(1)
        for _ in range(20):
            with pool.connection():
                pass
        assert queries == []

    def test_one_answer_clears_the_suspicion(self, setup: Setup) -> None:
        queries, options = queries_of(setup)
        pool = setup.pool(min_size=2, **options)
        pool.verify_connections()
        assert pool.status().suspect
        for _ in range(20):
            with pool.connection():
                pass
        assert queries == ["SELECT current_user::text"]
        assert not pool.status().suspect
        assert pool.get_stats()["requests_num"] == 20

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_the_test_leaves_no_trace(self, setup: Setup, autocommit: bool) -> None:
        pool = setup.pool(min_size=1, kwargs={"autocommit": autocommit, "row_factory": dict_row})
        pool.verify_connections()
        with pool.connection() as connection:
            assert connection.info.transaction_status == TransactionStatus.IDLE
            assert connection.autocommit is autocommit
            assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


class TestZombies:
    def test_a_lost_lease(self, setup: Setup) -> None:
        renewed = setup.provider.renew

        def lose(grant: Grant) -> Lease:
            if grant.generation > 1:
                return renewed(grant)
            drop(setup, 1)
            setup.provider.gate.clear()
            raise LeaseLost("revoked by an operator")

        cast("Any", setup.provider).renew = lose
        clock = setup.clock()
        setup.provider.duration = 60.0
        pool = setup.pool(min_size=4)
        setup.provider.duration = 3600.0
        clock.advance(30.0)
        setup.events.wait_for(RenewalFailed)
        wait_until(lambda: pool.status().suspect)
        with pytest.raises(CheckoutFailed):
            pool.getconn(timeout=BRIEF)
        setup.provider.gate.set()
        assert users(pool, 20) == [setup.role(2)] * 20

    def test_a_refused_login(self, setup: Setup) -> None:
        pool = setup.pool(min_size=4)
        drop(setup, 1)
        pool.resize(5)
        setup.events.wait_for(LoginRejected)
        assert users(pool, 20) == [setup.role(2)] * 20
        setup.provider.wait_for_sessions({2: 5})
        wait_until(lambda: not pool.status().suspect)

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_login_refused_by_valid_until_is_reported(
        self, setup: Setup, autocommit: bool
    ) -> None:
        """The lease has an hour left: a renewal of it forgets the role."""
        pool = setup.pool(min_size=2, max_size=3, kwargs={"autocommit": autocommit})
        setup.provider.gate.clear()
        setup.provider.alter(1, "VALID UNTIL '2001-01-01'")
        with pool.connection(), pool.connection():
            waiting = Worker(pool.getconn, timeout=PATIENCE)
            setup.events.wait_for(LoginRejected)
        pool.putconn(cast("Any", waiting.get()))
        for _ in range(2):
            with pool.connection() as connection:
                assert connection.autocommit is autocommit
                assert user_of(connection) == setup.role(1)
        (told,) = setup.events.wait_for(ValidUntilPassed)
        assert isinstance(told, ValidUntilPassed)
        assert (told.generation, told.ends_in < 0.0) == (1, True)
        assert 0.0 < told.expires_in <= 3600.0
        assert "ALTER ROLE" in told.remedy
        # Each login that is refused from now on says so.
        refused = pytest.raises(LoginRefused, match=r"ALTER ROLE .*VALID UNTIL")
        with pool.connection(), pool.connection(), refused:
            pool.getconn(timeout=BRIEF)
        setup.provider.gate.set()

    def test_one_refused_for_another_reason_is_not(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, max_size=2)
        setup.provider.gate.clear()
        setup.provider.alter(1, "NOLOGIN")
        with pool.connection():
            waiting = Worker(pool.getconn, timeout=PATIENCE)
            setup.events.wait_for(LoginRejected)
        pool.putconn(cast("Any", waiting.get()))
        assert setup.events.of(ValidUntilPassed) == []
        setup.provider.gate.set()

    def test_a_suspend_that_outlasts_the_lease(self, setup: Setup) -> None:
        """The keeper's thread sleeps on: no checkout may wait for it to notice."""
        clock = setup.clock()
        pool = setup.pool(min_size=4)
        assert users(pool, 4) == [setup.role(1)] * 4
        drop(setup, 1)
        clock.suspend(3601.0)
        assert users(pool, 20) == [setup.role(2)] * 20
        assert setup.provider.calls.count("fetch") == 2
        setup.provider.wait_for_sessions({2: 4})

    def test_d3_dead_ones_do_not_make_a_checkout_wait(self, setup: Setup) -> None:
        pool = setup.pool(min_size=6)
        drop(setup, 1)
        pool.verify_connections()
        # With psycopg_pool's own check= it sleeps half a minute between the six of them.
        with pool.connection(timeout=25.0) as connection:
            assert user_of(connection) == setup.role(2)

    def test_a_word_of_the_services_own(self, setup: Setup) -> None:
        pool = setup.pool(min_size=4)
        drop(setup, 1)
        pool.verify_connections()
        assert users(pool, 20) == [setup.role(2)] * 20
        stats = pool.get_stats()
        assert stats["requests_num"] == 20
        assert stats.get("returns_bad", 0) == 0

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_a_query_that_failed(self, setup: Setup, wrapped: bool) -> None:
        pool = setup.pool(min_size=4)
        drop(setup, 1)
        expected = KeyError if wrapped else psycopg.errors.UndefinedObject
        with pytest.raises(expected), pool.connection() as connection:
            fail(connection, wrapped)
        assert users(pool, 20) == [setup.role(2)] * 20
        assert setup.provider.calls.count("fetch") == 2

    def test_a_query_that_failed_and_was_rolled_back(self, setup: Setup) -> None:
        pool = setup.pool(min_size=4)
        drop(setup, 1)
        if isinstance(setup.twin, AsyncTwin):
            setup.twin.loop.run(roll_back_async(cast("PoolFace", pool).raw))
        else:
            connection = pool.getconn()
            try:
                user_of(connection)
            except psycopg.Error:
                connection.rollback()
            pool.putconn(connection)
        assert users(pool, 20) == [setup.role(2)] * 20

    def test_a_query_that_failed_in_a_transaction_that_is_returned_as_it_is(
        self, setup: Setup
    ) -> None:
        reset: list[int] = []
        pool = setup.pool(min_size=1, max_size=1, reset=lambda _: reset.append(1))
        drop(setup, 1)
        connection = pool.getconn()
        with pytest.raises(psycopg.errors.UndefinedObject):
            user_of(connection)
        pool.putconn(connection)
        assert users(pool, 3) == [setup.role(2)] * 3

    def test_a_query_that_lacks_a_grant(self, setup: Setup) -> None:
        queries, options = queries_of(setup)
        pool = setup.pool(min_size=4, **options)
        secret = "SELECT rolpassword FROM pg_authid"
        with pytest.raises(psycopg.errors.InsufficientPrivilege), pool.connection() as connection:
            connection.execute(secret)
        for _ in range(20):
            with pool.connection():
                pass
        assert [q for q in queries if q != secret] == ["SELECT current_user::text"]
        assert setup.provider.calls.count("fetch") == 1
        assert not pool.status().suspect

    def test_a_deadline_without_successor(self, setup: Setup) -> None:
        """Past it the server may drop the role at any time: an answer clears nothing."""
        clock = setup.clock()
        setup.provider.duration, setup.provider.renewable = 60.0, False
        pool = setup.pool(min_size=2)
        setup.provider.failures["fetch"] = [ProviderUnavailable("away")] * 1000
        clock.advance(61.0)
        setup.events.wait_for(LeaseExpired)
        setup.events.wait_for(FetchFailed)
        assert users(pool, 3) == [setup.role(1)] * 3
        assert pool.status().suspect
        drop(setup, 1)
        waiting = Worker(pool.getconn, timeout=PATIENCE)
        # It has found the dead ones, and that there is nothing to open others with.
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(CredentialsExpired, match="away"):
            pool.getconn(timeout=BRIEF)
        setup.provider.duration = 3600.0
        setup.provider.failures["fetch"].clear()
        clock.advance(1.0)
        pool.putconn(cast("Any", waiting.get()))
        assert users(pool, 5) == [setup.role(2)] * 5

    def test_they_stay_suspect_after_new_credentials_came(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(
            min_size=4,
            max_size=4,
            connection_class=gate,
            rotation=RotationPolicy(overshoot=1),
        )
        borrowed = [pool.getconn() for _ in range(4)]
        drop(setup, 1)
        pool.verify_connections()
        setup.provider.failures["revoke"] = [RuntimeError("it is gone already")] * 99
        setup.rotate(2)
        # One of the new ones is ready; three of the old ones wait for theirs, and are idle.
        gate.opened.clear()
        for connection in borrowed:
            pool.putconn(connection)
        assert users(pool, 8) == [setup.role(2)] * 8
        gate.opened.set()

    def test_an_answer_of_the_new_ones_says_nothing_about_the_old(self, setup: Setup) -> None:
        gate = setup.twin.gate()
        pool = setup.pool(min_size=2, max_size=2, connection_class=gate)
        borrowed = pool.getconn()
        setup.rotate(2)
        setup.provider.wait_for_sessions({1: 1, 2: 1})
        drop(setup, 1)
        gate.opened.clear()
        pool.verify_connections()
        assert users(pool, 3) == [setup.role(2)] * 3
        pool.putconn(borrowed)
        assert users(pool, 3) == [setup.role(2)] * 3
        gate.opened.set()
        setup.provider.failures["revoke"] = [RuntimeError("it is gone already")] * 99

    def test_lost_connections_are_no_zombies(self, setup: Setup) -> None:
        pool = setup.pool(min_size=4)
        ended = setup.provider._admin.execute(
            "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE usename = %s",
            [round(PATIENCE * 1000), setup.role(1)],
        ).fetchall()
        assert ended == [(True,)] * 4
        pool.verify_connections()
        assert users(pool, 8) == [setup.role(1)] * 8
        assert setup.provider.calls == ["fetch"]
        assert setup.events.of(LoginRejected) == []


def impatient(setup: Setup) -> dict[str, Any]:
    """Return the options of a pool whose first test is cancelled by the server."""
    base: Any = psycopg.AsyncCursor if isinstance(setup.twin, AsyncTwin) else psycopg.Cursor
    asked: list[str] = []

    class Impatient(base):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if query == "SELECT current_user::text" and not asked:
                asked.append(query)
                raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")
            return super().execute(query, *args, **kwargs)

    return {"kwargs": {"cursor_factory": Impatient}}


def test_a_test_without_an_answer_says_nothing_of_the_role(setup: Setup) -> None:
    pool = setup.pool(min_size=1, max_size=1, **impatient(setup))
    with pool.connection() as connection:
        first = connection.info.backend_pid
    pool.verify_connections()
    with pool.connection(timeout=PATIENCE) as connection:
        assert connection.info.backend_pid != first
    assert not pool.status().suspect
    assert setup.events.of(LoginRejected) == []
    assert setup.provider.calls.count("fetch") == 1


def test_a_server_that_does_not_answer_the_test_holds_no_checkout_up(setup: Setup) -> None:
    with TCPProxy(setup.server.host, setup.server.port) as proxy:
        conninfo = f"host={proxy.host} port={proxy.port} dbname=postgres sslmode=disable"
        pool = setup.pool(conninfo=conninfo, min_size=2, max_size=2)
        proxy.stall()
        pool.verify_connections()
        waiting = Worker(pool.getconn, timeout=0.5)
        assert isinstance(waiting.join().error, psycopg_pool.PoolTimeout)
        proxy.restore()
        assert users(pool, 3) == [setup.role(1)] * 3


class _Hanging(psycopg.AsyncCursor[Any]):
    reached: ClassVar[asyncio.Event]

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        if "current_user::text" in str(query) and not self.reached.is_set():
            self.reached.set()
            await asyncio.Event().wait()
        return await super().execute(query, *args, **kwargs)


def test_a_checkout_cancelled_during_the_test_loses_no_connection(setup: Setup) -> None:
    if not isinstance(setup.twin, AsyncTwin):
        pytest.skip("only tasks can be cancelled")
    face = setup.pool(min_size=1, max_size=1, kwargs={"cursor_factory": _Hanging})
    pool = cast("PoolFace", face).raw

    async def cancel() -> None:
        _Hanging.reached = asyncio.Event()
        pool.verify_connections()
        task = asyncio.create_task(pool.getconn(PATIENCE))
        await _Hanging.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    setup.twin.loop.run(cancel())
    assert users(face, 2) == [setup.role(1)] * 2
