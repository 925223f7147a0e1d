"""`retry_on_rotation` on a real PostgreSQL, as decorator and as loop, with both pools."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import psycopg
import pytest
from minting import PATIENCE
from psycopg import sql
from twins import AsyncTwin, PoolFace, Setup, Worker, wait_until

from ephemeral_creds import LoginRefused, RotationPolicy, retry_on_rotation
from ephemeral_creds.events import LeaseRevoked, LoginRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds import AsyncRotatingConnectionPool, RotatingConnectionPool


class Transaction:
    """Two queries of one transaction, and something that happens in between.

    Attributes:
        calls: how often it ran.
        pids: the server processes it ran on.
    """

    def __init__(
        self, last: str = "SELECT current_user::text", meanwhile: Callable[[int], object] = print
    ) -> None:
        self.last = cast("Any", last)
        self.meanwhile = meanwhile
        self.calls = 0
        self.pids: list[int] = []

    def run(self, pool: RotatingConnectionPool[Any]) -> str:
        self.calls += 1
        with pool.connection() as connection:
            connection.execute("SELECT 1")
            self.pids.append(connection.info.backend_pid)
            self.meanwhile(self.calls)
            row = connection.execute(self.last).fetchone()
        return str(row[0]) if row else ""

    async def run_async(self, pool: AsyncRotatingConnectionPool[Any]) -> str:
        self.calls += 1
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
            self.pids.append(connection.info.backend_pid)
            await asyncio.to_thread(self.meanwhile, self.calls)
            row = await (await connection.execute(self.last)).fetchone()
        return str(row[0]) if row else ""


Run: TypeAlias = "Callable[..., str]"


@pytest.fixture(params=["decorator", "loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a transaction of `setup`'s kind, by `retry_on_rotation`."""

    def run(setup: Setup, pool: Any, transaction: Transaction, **bounds: Any) -> str:
        if isinstance(setup.twin, AsyncTwin):
            raw = cast("PoolFace", pool).raw
            once: Any = run_async(request.param, raw, transaction, bounds)
            return cast("str", setup.twin.loop.run(once))
        return run_sync(request.param, pool, transaction, bounds)

    return run


def run_sync(
    way: str, pool: RotatingConnectionPool[Any], transaction: Transaction, bounds: Any
) -> str:
    if way == "decorator":
        return retry_on_rotation(pool, **bounds)(transaction.run)(pool)
    for attempt in retry_on_rotation(pool, **bounds):
        with attempt:
            result = transaction.run(pool)
    return result


async def run_async(
    way: str, pool: AsyncRotatingConnectionPool[Any], transaction: Transaction, bounds: Any
) -> str:
    if way == "decorator":
        return await retry_on_rotation(pool, **bounds)(transaction.run_async)(pool)
    async for attempt in retry_on_rotation(pool, **bounds):
        with attempt:
            result = await transaction.run_async(pool)
    return result


class World:
    """What an administrator does behind the service's back, and the tables it has."""

    def __init__(self, setup: Setup) -> None:
        self.admin = setup.server.admin()
        self.setup = setup
        self.owner, self.open, self.closed = (f"{setup.prefix}_{x}" for x in ("o", "t", "c"))
        setup.stack.enter_context(setup.provider.owner(self.owner))
        for name in (self.open, self.closed):
            self.admin.execute(
                sql.SQL("CREATE TABLE {} (number int PRIMARY KEY)").format(sql.Identifier(name))
            )
        # All roles may; a session whose role is gone may not.
        self.grant("INSERT, SELECT", self.open)

    def grant(self, what: str, table: str) -> None:
        self.admin.execute(
            sql.SQL("GRANT {} ON {} TO {}").format(
                sql.SQL(cast("Any", what)), sql.Identifier(table), sql.Identifier(self.owner)
            )
        )

    def admit(self, number: int) -> None:
        self.admin.execute(
            sql.SQL("GRANT {} TO {}").format(
                sql.Identifier(self.owner), sql.Identifier(self.setup.role(number))
            )
        )

    def drop(self, number: int) -> None:
        """Drop a role under its live sessions."""
        role = sql.Identifier(self.setup.role(number))
        self.admin.execute(sql.SQL("DROP ROLE {}").format(role))

    def terminate(self, number: int = 1) -> None:
        """End all sessions of a role, and wait until they have ended."""
        ended = self.admin.execute(
            "SELECT pid, pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE usename = %s",
            [round(PATIENCE * 1000), self.setup.role(number)],
        ).fetchall()
        # Of one that has ended by itself meanwhile, PostgreSQL says that it was none.
        left = self.admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [[pid for pid, _ in ended]]
        ).fetchall()
        assert left == [], "some did not end in time"

    def close(self) -> None:
        for name in (self.open, self.closed):
            self.admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
        self.admin.close()


@pytest.fixture
def world(setup: Setup) -> Any:
    world = World(setup)
    mint = setup.provider.mint

    def mint_member(number: int) -> Any:
        credentials = mint(number)
        world.admit(number)
        return credentials

    setup.provider.mint = mint_member
    # Before the roles are dropped, after the pools are closed.
    setup.stack.callback(world.close)
    return world


def only_first(action: Callable[[], object]) -> Callable[[int], None]:
    def act(call: int) -> None:
        if call == 1:
            action()

    return act


class TestRunAgain:
    def test_a_session_ended_in_the_middle(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=1)
        transaction = Transaction(meanwhile=only_first(world.terminate))
        assert run(setup, pool, transaction) == setup.role(1)
        assert transaction.calls == 2
        assert len(set(transaction.pids)) == 2

    def test_all_sessions_ended_cost_one_attempt(
        self, setup: Setup, world: World, run: Run
    ) -> None:
        pool = setup.pool(min_size=8)
        transaction = Transaction(meanwhile=only_first(world.terminate))
        assert run(setup, pool, transaction) == setup.role(1)
        assert transaction.calls == 2
        # Lost connections are no reason to ask for other credentials.
        assert setup.provider.calls.count("fetch") == 1
        assert setup.events.of(LoginRejected) == []

    @pytest.mark.parametrize("state", ["42501", "42704"])
    def test_a_role_dropped_under_its_session(
        self, setup: Setup, world: World, run: Run, state: str
    ) -> None:
        pool = setup.pool(min_size=3)
        query = {
            "42501": f"SELECT count(*)::text FROM {world.open}",
            "42704": "SELECT current_user::text",
        }[state]
        transaction = Transaction(query, meanwhile=only_first(lambda: world.drop(1)))
        assert run(setup, pool, transaction) == {"42501": "0", "42704": setup.role(2)}[state]
        assert transaction.calls == 2

    def test_a_connection_of_a_generation_that_was_replaced(
        self, setup: Setup, world: World, run: Run
    ) -> None:
        pool = setup.pool(min_size=2)

        def rotate_and_drop() -> None:
            setup.rotate(2)
            world.drop(1)
            setup.provider.failures["revoke"] = [RuntimeError("it is gone already")] * 99

        transaction = Transaction(
            f"SELECT count(*)::text FROM {world.open}", meanwhile=only_first(rotate_and_drop)
        )
        assert run(setup, pool, transaction) == "0"
        assert transaction.calls == 2

    def test_a_query_that_the_pool_cancelled_at_the_deadline(
        self, setup: Setup, world: World, run: Run
    ) -> None:
        clock = setup.clock()
        setup.provider.duration = setup.provider.maximum = 60.0
        pool = setup.pool(min_size=1, rotation=RotationPolicy(borrowed="cancel"))
        setup.provider.duration = 3600.0

        def reach_the_deadline() -> None:
            wait_until(lambda: setup.provider.asleep() == [setup.role(1)])
            clock.advance(30.0)
            setup.published(2)
            clock.advance(30.0)

        transaction = Transaction(
            "SELECT current_user::text FROM (SELECT pg_sleep(CASE current_user "
            f"WHEN '{setup.role(1)}' THEN 600 ELSE 0 END)) AS slept"
        )
        deadline = Worker(reach_the_deadline)
        assert run(setup, pool, transaction) == setup.role(2)
        deadline.get()
        assert transaction.calls == 2

    def test_the_failed_attempt_is_rolled_back(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=1)
        insert = f"INSERT INTO {world.open} VALUES (1) RETURNING number::text"
        transaction = Transaction(insert, meanwhile=only_first(world.terminate))
        assert run(setup, pool, transaction) == "1"
        rows = world.admin.execute(
            sql.SQL("SELECT number FROM {}").format(sql.Identifier(world.open))
        ).fetchall()
        assert rows == [(1,)]

    def test_from_many_callers_at_once(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=4, max_size=4)
        barrier = threading.Barrier(4)
        transactions = [
            Transaction(meanwhile=only_first(lambda: barrier.wait(PATIENCE))) for _ in range(4)
        ]
        first = transactions[0]

        def drop() -> None:
            world.drop(1)
            barrier.wait(PATIENCE)

        first.meanwhile = only_first(drop)
        workers = [Worker(run, setup, pool, t, attempts=5) for t in transactions]
        assert [worker.get() for worker in workers] == [setup.role(2)] * 4


class TestRaisedAtOnce:
    def test_a_missing_grant(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=2)
        transaction = Transaction(f"SELECT count(*)::text FROM {world.closed}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(setup, pool, transaction)
        assert transaction.calls == 1
        assert not pool.status().suspect
        assert setup.provider.calls == ["fetch"]

    def test_a_missing_grant_while_all_connections_are_in_use(
        self, setup: Setup, world: World, run: Run
    ) -> None:
        pool = setup.pool(min_size=2, max_size=2)
        taken = []
        # A waiting caller gets the connection before a test of it can.
        transaction = Transaction(
            f"SELECT count(*)::text FROM {world.closed}",
            meanwhile=lambda _: taken.append(Worker(pool.getconn, PATIENCE)),
        )
        with pool.connection():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run(setup, pool, transaction)
            pool.putconn(cast("Any", taken[0].get()))
        assert transaction.calls == 1

    def test_a_type_that_is_not_there(self, setup: Setup, run: Run) -> None:
        pool = setup.pool(min_size=1)
        transaction = Transaction("SELECT NULL::no_such_type")
        with pytest.raises(psycopg.errors.UndefinedObject):
            run(setup, pool, transaction)
        assert transaction.calls == 1

    def test_a_key_that_is_taken(self, setup: Setup, world: World, run: Run) -> None:
        world.admin.execute(sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier(world.open)))
        pool = setup.pool(min_size=1)
        transaction = Transaction(f"INSERT INTO {world.open} VALUES (1) RETURNING number")
        with pytest.raises(psycopg.errors.UniqueViolation):
            run(setup, pool, transaction)
        assert transaction.calls == 1

    def test_a_statement_that_takes_too_long(self, setup: Setup, run: Run) -> None:
        pool = setup.pool(min_size=1, kwargs={"options": "-c statement_timeout=50"})
        transaction = Transaction("SELECT pg_sleep(60)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            run(setup, pool, transaction)
        assert transaction.calls == 1

    def test_a_checkout_that_fails(self, setup: Setup, run: Run) -> None:
        setup.provider.login = "NOLOGIN"
        pool = setup.pool(min_size=1, wait=False, timeout=0.5)
        # Only after a refused login there is a reason to give.
        wait_until(lambda: pool.status().last_error)
        transaction = Transaction()
        with pytest.raises(LoginRefused):
            run(setup, pool, transaction)
        assert transaction.calls == 1


class TestBounds:
    def test_a_session_that_ends_each_time(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=1)
        transaction = Transaction(meanwhile=lambda _: world.terminate())
        with pytest.raises(psycopg.errors.AdminShutdown):
            run(setup, pool, transaction, attempts=4)
        assert transaction.calls == 4
        wait_until(lambda: pool.status().ready)

    def test_the_rest_of_the_pool_is_as_before(self, setup: Setup, world: World, run: Run) -> None:
        pool = setup.pool(min_size=4)
        run(setup, pool, Transaction(meanwhile=only_first(lambda: world.drop(1))))
        setup.provider.wait_for_sessions({2: 4})
        # Neither the test of a connection nor the dead ones count as the user's requests.
        wait_until(lambda: not pool.status().stale)
        assert pool.get_stats()["requests_num"] == 2
        assert not pool.status().suspect
        assert setup.events.of(LeaseRevoked) == []
