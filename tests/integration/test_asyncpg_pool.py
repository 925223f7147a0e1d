"""asyncpg's pool through rotations, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest
from minting import PATIENCE, Events, RoleProvider
from twins import EAGER, wait_until

from ephemeral_creds import ConfigurationError, CredentialKeeper, FixedProvider, NotReady
from ephemeral_creds.events import LoginRejected
from ephemeral_creds.keeper.loop import in_thread
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from ephemeral_creds.contrib.asyncpg import RotatingPool
    from ephemeral_creds.testing import PostgresServer

asyncpg = pytest.importorskip("asyncpg")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test in an event loop, for a limited time."""

    async def limited() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await main

    asyncio.run(limited())


async def eventually(condition: Callable[[], object], what: str) -> None:
    await in_thread(wait_until, condition, what)


class World:
    """A keeper, what it mints, and pools of asyncpg's."""

    def __init__(self, server: PostgresServer, prefix: str, stack: ExitStack) -> None:
        self.server = server
        self.prefix = prefix
        self.stack = stack
        self.events = Events()
        self.dsn = f"postgresql://{server.host}:{server.port}/postgres"

    def mint(self) -> RoleProvider:
        self.provider = RoleProvider(self.server, self.prefix)
        self.stack.callback(self.provider.disconnect)
        return self.provider

    def keeper(
        self, *, end_sessions: bool = False, clock: FakeClock | None = None
    ) -> CredentialKeeper:
        provider = self.mint()
        provider.end_sessions = end_sessions
        if clock is not None:
            provider._clock = clock
        keeper = CredentialKeeper(provider, refresh=EAGER, observers=[self.events], clock=clock)
        self.stack.callback(keeper.close)
        self.stack.callback(provider.gate.set)
        keeper.start()
        return keeper

    def role(self, number: int) -> str:
        return f"{self.prefix}_{number}"

    @asynccontextmanager
    async def pool(
        self, credentials: object, size: int = 4, **options: object
    ) -> AsyncIterator[RotatingPool]:
        from ephemeral_creds.contrib.asyncpg import create_pool

        options = {"min_size": size, "max_size": size} | options
        async with create_pool(credentials, self.dsn, **options) as pool:  # type: ignore[arg-type]
            yield pool


@pytest.fixture
def world(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(postgres, unique("asyncpg"), stack)


class Query(Protocol):
    async def __call__(self, pool: RotatingPool) -> object: ...


async def connect_in_any_time(*args: Any, **options: Any) -> Any:
    """Log in: a pool's brief timeout is then only that of its wait for other credentials."""
    return await asyncpg.connect(*args, **options | {"timeout": PATIENCE})


async def ask(pool: RotatingPool) -> object:
    return await pool.fetchval("SELECT current_user::text FROM pg_sleep(0.005)")


class Load:
    """Queries without a pause; each failure is kept."""

    def __init__(self, pool: RotatingPool, query: Query = ask, workers: int = 8) -> None:
        self.succeeded = 0
        self.failures: list[BaseException] = []
        self._pool, self._query, self._workers = pool, query, workers
        self._done = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._done = True
        await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        wanted = self.succeeded + 2 * self._workers
        await eventually(lambda: self.failures or self.succeeded >= wanted, "queries")

    async def _work(self) -> None:
        while not self._done:
            try:
                await self._query(self._pool)
            except Exception as error:
                self.failures.append(error)
                await asyncio.sleep(0)
            else:
                self.succeeded += 1


@pytest.mark.slow
@pytest.mark.parametrize("end_sessions", [True, False], ids=["sessions-end", "role-dropped"])
@pytest.mark.parametrize("workers", [2, 8], ids=["idle-connections", "none-idle"])
def test_ten_rotations_under_load_cost_no_query(
    world: World, end_sessions: bool, workers: int
) -> None:
    async def main() -> None:
        keeper = world.keeper(end_sessions=end_sessions)
        async with world.pool(keeper) as pool:
            async with Load(pool, workers=workers) as load:
                for number in range(2, 12):
                    await pool.refresh(PATIENCE)
                    await load.goes_on()
                    live = {world.role(number)}
                    await eventually(lambda: world.provider.live == live, f"{live} alone")  # noqa: B023
            assert load.failures == []
            assert load.succeeded > 20 * workers
            assert await ask(pool) == world.role(11)

    run(main())


def test_idle_connections_are_replaced_one_by_one_without_being_used(world: World) -> None:
    async def main() -> None:
        async with world.pool(world.keeper(), size=5) as pool:
            await pool.refresh(PATIENCE)
            await in_thread(world.provider.wait_for_sessions, {2: 5})
            await eventually(lambda: world.provider.live == {world.role(2)}, "revocation")
            assert pool.get_size() == pool.get_idle_size() == 5

    run(main())


def test_a_borrowed_connection_keeps_its_lease_until_it_is_returned(world: World) -> None:
    async def main() -> None:
        async with world.pool(world.keeper(), size=2) as pool:
            async with pool.acquire() as connection:
                assert not pool.is_stale(connection)
                await pool.refresh(PATIENCE)
                assert pool.is_stale(connection)
                assert connection.generation == 1
                await in_thread(world.provider.wait_for_sessions, {1: 1, 2: 2})
                assert await connection.fetchval("SELECT current_user") == world.role(1)
            await eventually(lambda: world.provider.live == {world.role(2)}, "revocation")
            await in_thread(world.provider.wait_for_sessions, {2: 2})

    run(main())


def test_the_first_checkout_waits_for_the_first_credentials(world: World) -> None:
    async def main() -> None:
        provider = world.mint()
        provider.gate.clear()
        pending = asyncio.create_task(opened(provider))
        await eventually(lambda: "fetch" in provider.calls, "fetch")
        provider.gate.set()
        await pending
        # The keeper is the pool's own: it revokes when the pool is closed.
        assert provider.live == set()

    async def opened(provider: RoleProvider) -> None:
        async with world.pool(provider, refresh=EAGER, observers=[]) as pool:
            assert await ask(pool) == world.role(1)

    run(main())


def test_a_pool_without_credentials_gives_up_in_time(world: World) -> None:
    async def main() -> None:
        provider = world.mint()
        provider.gate.clear()
        world.stack.callback(provider.gate.set)
        with pytest.raises(NotReady):
            async with world.pool(provider, timeout=0.05, refresh=EAGER, observers=[]):
                pass

    run(main())


@pytest.mark.slow
def test_a_role_dropped_by_hand_costs_only_what_was_running(world: World) -> None:
    async def main() -> None:
        keeper, workers = world.keeper(), 4
        async with world.pool(keeper, size=workers) as pool, Load(pool, workers=workers) as load:
            await load.goes_on()
            with world.server.admin() as admin:
                admin.execute(f"ALTER ROLE {world.role(1)} NOLOGIN")
                # Until they have ended: one that takes its time fails a query of later.
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                    " WHERE usename = %s",
                    [world.role(1)],
                )
            await eventually(lambda: world.provider.live >= {world.role(2)}, "another role")
            await pool.fetchval("SELECT 1")
            before = len(load.failures)
            await load.goes_on()
            assert len(load.failures) == before <= workers

    run(main())


def test_a_missing_role_is_found_by_a_query_that_fails(world: World) -> None:
    async def main() -> None:
        async with world.pool(world.keeper(), size=2) as pool:
            with world.server.admin() as admin:
                admin.execute(f"DROP ROLE {world.role(1)}")
            with pytest.raises(asyncpg.PostgresError):
                await ask(pool)
            # Each connection is tested before it is lent now.
            assert await ask(pool) == world.role(2)

    run(main())


def test_a_source_unreachable_for_longer_than_the_lease_costs_no_query(world: World) -> None:
    async def main() -> None:
        clock = FakeClock()
        keeper = world.keeper(clock=clock)
        async with world.pool(keeper, size=2) as pool:
            assert await ask(pool) == world.role(1)
            world.provider.failures["fetch"] += [ConnectionError() for _ in range(50)]
            world.provider.failures["renew"] += [ConnectionError() for _ in range(50)]
            clock.advance(2 * world.provider.duration)
            async with Load(pool, workers=2) as load:
                await load.goes_on()
            assert load.failures == []

    run(main())


def test_a_wrong_password_is_reported_without_leading_to_it(world: World) -> None:
    async def main() -> None:
        provider = FixedProvider(world.server.superuser, "not-this-password")
        keeper = CredentialKeeper(provider, observers=[world.events])
        world.stack.callback(keeper.close)
        keeper.start()
        keeper.wait(PATIENCE)
        with pytest.raises(asyncpg.InvalidPasswordError) as caught:
            async with world.pool(keeper, timeout=0.5, connect=connect_in_any_time):
                pass
        rejected = world.events.wait_for(LoginRejected)
        (told,) = {(e.reason, e.sqlstate) for e in rejected}  # type: ignore[attr-defined]
        assert told == ("credentials", "28P01")
        frames = "".join(
            repr(frame.f_locals) for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        )
        assert "not-this-password" not in frames

    run(main())


def test_sessions_act_as_the_session_role(world: World, unique: Callable[[str], str]) -> None:
    owner = unique("owner")

    async def main() -> None:
        provider = world.mint()
        with world.server.admin() as admin:
            admin.execute(f"CREATE ROLE {owner}")
        provider.grants = [owner]
        async with world.pool(
            provider, size=1, session_role=owner, refresh=EAGER, observers=[]
        ) as pool:
            for number in (1, 2):
                for _ in range(2):  # it survives the reset of a release
                    row = await pool.fetchrow("SELECT session_user::text, current_user::text")
                    assert tuple(row) == (world.role(number), owner)
                await pool.refresh(PATIENCE)
                await eventually(lambda: len(provider.live) == 1, "revocation")
        with world.server.admin() as admin:
            admin.execute(f"DROP ROLE {owner}")

    run(main())


def test_a_role_that_was_not_granted_is_named(world: World, unique: Callable[[str], str]) -> None:
    owner = unique("owner")

    async def main() -> None:
        with world.server.admin() as admin:
            admin.execute(f"CREATE ROLE {owner}")
        try:
            keeper = world.keeper()
            keeper.wait(PATIENCE)
            with pytest.raises(asyncpg.PostgresError) as caught:
                async with world.pool(
                    keeper, session_role=owner, timeout=0.5, connect=connect_in_any_time
                ):
                    pass
            assert f"GRANT {owner}" in "".join(caught.value.__notes__)
        finally:
            with world.server.admin() as admin:
                admin.execute(f"DROP ROLE {owner}")

    run(main())


def test_functions_of_the_user_are_called(world: World) -> None:
    async def main() -> None:
        called: list[str] = []

        async def connect(*args: Any, **options: Any) -> Any:
            called.append("connect")
            return await asyncpg.connect(*args, **options)

        async def init(_: object) -> None:
            called.append("init")

        async def setup(_: object) -> None:
            called.append("setup")

        base: Any = asyncpg.Connection
        kind = type("Connection", (base,), {})

        keeper = world.keeper()
        options = {"connect": connect, "init": init, "setup": setup}
        async with world.pool(keeper, size=1, connection_class=kind, **options) as pool:
            async with pool.acquire() as connection:
                assert kind in type(connection._con).__mro__
            assert called == ["connect", "init", "setup"]

    run(main())


@pytest.mark.parametrize(
    ("dsn", "options", "named"),
    [
        ("postgresql://app@db/app", {}, "user"),
        ("postgresql://app:secret-in-dsn@db/app", {}, "password, user"),
        ("postgresql://db/app?password=x", {}, "password"),
        (None, {"user": "app"}, "user"),
        (None, {"passfile": "/x"}, "passfile"),
    ],
)
def test_a_user_or_a_password_of_the_users_is_refused(
    dsn: str | None, options: dict[str, object], named: str
) -> None:
    from ephemeral_creds.contrib.asyncpg import create_pool

    with pytest.raises(ConfigurationError, match=f"set {named}: remove it"):
        create_pool(FixedProvider("a", "b"), dsn, **options)  # type: ignore[arg-type]


def test_a_pool_that_is_terminated_leaves_its_keeper(world: World) -> None:
    async def main() -> None:
        keeper = world.keeper()
        async with world.pool(keeper, size=2) as pool:
            pool.terminate()
            with pytest.raises(asyncpg.InterfaceError):
                await ask(pool)
        await in_thread(keeper.refresh, PATIENCE)
        await eventually(lambda: world.provider.live == {world.role(2)}, "revocation")

    run(main())
