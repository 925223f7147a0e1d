"""What only an event loop can do to a pool: block it, cancel it, end before it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
import pytest
from minting import PATIENCE, Events, RoleProvider
from twins import EAGER, wait_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    ConfigurationError,
    CredentialKeeper,
    NotReady,
)
from ephemeral_creds.events import CredentialsPublished, LeaseRenewed, LeaseRevoked
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator

    from ephemeral_creds import Event
    from ephemeral_creds.testing import PostgresServer

Pool = AsyncRotatingConnectionPool[Any]


class World:
    """A provider, and pools on it in whatever loop the test runs."""

    def __init__(self, server: PostgresServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.provider = RoleProvider(server, prefix)
        self.events = Events()

    def make(self, credentials: Any = None, **options: Any) -> Pool:
        if credentials is None:
            credentials = self.provider
            options = {"refresh": EAGER, "observers": [self.events]} | options
        return AsyncRotatingConnectionPool(
            credentials, self.server.conninfo(), **{"min_size": 2} | options
        )

    @asynccontextmanager
    async def pool(self, credentials: Any = None, **options: Any) -> AsyncIterator[Pool]:
        """Open a pool; when it has been closed, no task may be left."""
        pool = self.make(credentials, **options)
        async with pool:
            await pool.wait(PATIENCE)
            yield pool
        await until(lambda: len(asyncio.all_tasks()) == 1, await others_than_this())

    @contextmanager
    def clocked_keeper(self, duration: float) -> Iterator[tuple[FakeClock, CredentialKeeper]]:
        """Make a keeper whose leases age by a clock that the test moves."""
        clock = self.provider._clock = FakeClock()
        self.provider.duration = duration
        with CredentialKeeper(
            self.provider, refresh=EAGER, observers=[self.events], clock=clock
        ) as keeper:
            yield clock, keeper

    def terminate(self) -> None:
        """End all sessions."""
        with self.server.admin() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE usename LIKE %s",
                [f"{self.prefix}\\_%"],
            )

    async def seen(self, kind: type[Event], count: int) -> None:
        await asyncio.to_thread(self.events.wait_for, kind, count)

    async def rotate(self, generation: int) -> None:
        self.provider.change()
        await self.seen(CredentialsPublished, generation)


@pytest.fixture
def world(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(postgres, unique("pool"))
        stack.callback(world.provider.disconnect)
        stack.callback(world.provider.gate.set)
        yield world


async def others_than_this() -> set[str]:
    others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
    return {task.get_name() for task in others}


async def until(condition: Callable[[], object], what: object = "") -> None:
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"in vain: {what}")


async def use(pool: Pool) -> None:
    async with pool.connection(PATIENCE) as connection:
        await connection.execute("SELECT current_user")
        await connection.execute("SELECT pg_sleep(0.001)")


def whole(pool: Pool) -> bool:
    """Tell whether every connection is idle, of one generation, and counted once everywhere."""
    status, stats = pool.status(), pool.get_stats()
    size = stats["pool_size"]
    return (
        status.connections == {status.generation: size}
        and stats["pool_available"] == size >= stats["pool_min"]
        and not stats.get("requests_waiting", 0)
        and not status.keeper.retired
        and not status.suspect
    )


async def settled(world: World, pool: Pool) -> None:
    """Wait until nothing is leaked: neither connection, nor generation, nor role, nor session."""
    await until(lambda: whole(pool), (pool.status(), pool.get_stats()))
    generation, size = pool.status().generation, pool.get_stats()["pool_size"]
    assert world.provider.roles() == [f"{world.prefix}_{generation}"]
    await asyncio.to_thread(world.provider.wait_for_sessions, {generation: size})
    # All of them are available at once.
    connections = [await pool.getconn(PATIENCE) for _ in range(pool.max_size)]
    for connection in connections:
        await connection.execute("SELECT current_user")
        await connection.rollback()
        await pool.putconn(connection)


class TestBlockedLoop:
    def test_renewal_continues(self, world: World) -> None:
        async def main(clock: FakeClock, keeper: CredentialKeeper) -> None:
            async with world.pool(keeper) as pool:
                turns = 0

                def turn() -> None:
                    nonlocal turns
                    turns += 1
                    asyncio.get_running_loop().call_soon(turn)

                turn()
                await asyncio.sleep(0)
                before = turns
                # Nothing of the loop runs in here.
                for count in (1, 2, 3):
                    clock.advance(30.0)
                    world.events.wait_for(LeaseRenewed, count)
                assert turns == before
                assert pool.status().keeper.ready
                await use(pool)

        with world.clocked_keeper(duration=60.0) as (clock, keeper):
            asyncio.run(main(clock, keeper))
            assert world.provider.calls.count("fetch") == 1

    def test_a_busy_one_neither(self, world: World) -> None:
        """Holding the interpreter's lock as much as one can."""

        async def main(clock: FakeClock, keeper: CredentialKeeper) -> None:
            async with world.pool(keeper) as pool:
                for goal in (1, 2):
                    clock.advance(30.0)
                    deadline = time.monotonic() + PATIENCE
                    while world.provider.calls.count("renew 1") < goal:
                        assert time.monotonic() < deadline
                    # The next step is for the answer to this one.
                    world.events.wait_for(LeaseRenewed, goal)
                await use(pool)
                assert pool.status().generation == 1

        with world.clocked_keeper(duration=60.0) as (clock, keeper):
            asyncio.run(main(clock, keeper))

    def test_a_rotation_waits_for_it_and_then_continues(self, world: World) -> None:
        async def main() -> None:
            async with world.pool() as pool:
                world.provider.change()
                wait_until(
                    lambda: world.provider.roles() == [f"{world.prefix}_{n}" for n in (1, 2)]
                )
                # It cannot have been proven.
                assert pool.status().generation == 1
                await world.seen(LeaseRevoked, 1)
                await settled(world, pool)

        asyncio.run(main())


class CancelledAt:
    """Awaits a coroutine, and cancels the task at the `step`-th time that it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], step: int) -> None:
        self.left = step
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, object]:
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            try:
                waiting_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            self.left -= 1
            if self.left == 0:
                cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
            try:
                yield waiting_for
            except BaseException as raised:
                error = raised


async def cancelled_everywhere(
    function: Callable[[], Coroutine[Any, Any, object]],
    between: Callable[[], Coroutine[Any, Any, object]],
) -> int:
    """Cancel `function` at each of its await points in turn; return how many there are."""
    for step in range(1, 500):
        cancelled = CancelledAt(function(), step)

        async def run(cancelled: CancelledAt = cancelled) -> object:
            return await cancelled

        (outcome,) = await asyncio.gather(asyncio.create_task(run()), return_exceptions=True)
        await between()
        if cancelled.left > 0:
            assert not isinstance(outcome, BaseException), outcome
            return step
    raise AssertionError("it never ends")


class TestCancelledAtEveryAwait:
    @pytest.mark.parametrize("reset", [False, True])
    def test_a_checkout_and_a_query(self, world: World, reset: bool) -> None:
        async def forget(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute("RESET work_mem")
            await connection.rollback()

        async def main() -> None:
            options = {"reset": forget} if reset else {}
            async with world.pool(min_size=1, max_size=2, **options) as pool:
                steps = await cancelled_everywhere(
                    lambda: use(pool), lambda: until(lambda: whole(pool))
                )
                assert steps > 3
                await settled(world, pool)

        asyncio.run(main())

    def test_a_checkout_of_a_suspect(self, world: World) -> None:
        """The test of a connection before it is lent is a query, too."""

        async def suspicious(pool: Pool) -> None:
            pool.verify_connections()
            await use(pool)

        async def main() -> None:
            async with world.pool(min_size=1, max_size=2) as pool:

                async def between() -> None:
                    await use(pool)
                    await until(lambda: whole(pool), pool.status())

                assert await cancelled_everywhere(lambda: suspicious(pool), between) > 5
                # A cancelled test says nothing about the role.
                assert world.provider.calls == ["fetch"]
                await settled(world, pool)

        asyncio.run(main())

    def test_a_checkout_that_waits_in_the_queue(self, world: World) -> None:
        async def main() -> None:
            async with world.pool(min_size=1, max_size=1) as pool:

                async def queued() -> None:
                    borrowed = await pool.getconn()
                    task = asyncio.create_task(use(pool))
                    try:
                        await until(lambda: pool.get_stats().get("requests_waiting", 0))
                    finally:
                        # Neither waits for anything in this pool: it is returned whatever happens.
                        await pool.putconn(borrowed)
                        if not task.done():
                            await task

                async def between() -> None:
                    await until(lambda: whole(pool), (pool.status(), pool.get_stats()))

                await cancelled_everywhere(queued, between)
                await settled(world, pool)

        asyncio.run(main())

    @pytest.mark.parametrize("rotated", [False, True])
    def test_a_return_while_another_task_holds_the_lock(self, world: World, rotated: bool) -> None:
        """As one does who hands a connection to a client that gives up (seen on Python 3.11)."""

        async def main() -> None:
            async with world.pool(min_size=1, max_size=1) as pool:
                borrowed = await pool.getconn()
                if rotated:
                    await world.rotate(2)
                    await asyncio.to_thread(world.provider.wait_for_sessions, {1: 1, 2: 1})
                async with pool._lock:
                    returning = asyncio.create_task(pool.putconn(borrowed))
                    await asyncio.sleep(0)
                    returning.cancel()
                    await asyncio.wait([returning])
                assert returning.cancelled()
                await until(lambda: whole(pool), (pool.status(), pool.get_stats()))
                await until(lambda: world.provider.roles() == [f"{world.prefix}_{1 + rotated}"])
                await settled(world, pool)

        asyncio.run(main())

    def test_a_suspect_whose_close_takes_long(self, world: World) -> None:
        class Farewell(psycopg.AsyncConnection[Any]):
            async def close(self) -> None:
                await asyncio.sleep(0)
                await super().close()

        async def suspicious(pool: Pool) -> None:
            world.terminate()
            pool.verify_connections()
            await use(pool)

        async def main() -> None:
            async with world.pool(min_size=1, max_size=1, connection_class=Farewell) as pool:

                async def between() -> None:
                    await use(pool)
                    await until(lambda: whole(pool), (pool.status(), pool.get_stats()))

                assert await cancelled_everywhere(lambda: suspicious(pool), between) > 3
                await settled(world, pool)

        asyncio.run(main())

    def test_a_return_in_the_middle_of_a_rotation(self, world: World) -> None:
        async def main() -> None:
            generation = 1
            async with world.pool(min_size=1, max_size=2) as pool:

                async def returned() -> None:
                    nonlocal generation
                    async with pool.connection() as connection:
                        await connection.execute("SELECT 1")
                        generation += 1
                        world.provider.change()
                        await until(lambda: pool.status().generation == generation)
                        await connection.execute("SELECT 1")

                async def between() -> None:
                    nonlocal generation
                    await until(lambda: whole(pool), (pool.status(), pool.get_stats()))
                    await until(lambda: pool.status().generation == generation)

                # The waits for the rotation are not the pool's: a few of them are enough.
                for step in range(1, 40):
                    task = asyncio.create_task(_awaiting(CancelledAt(returned(), step)))
                    await asyncio.gather(task, return_exceptions=True)
                    await between()
                await settled(world, pool)

        asyncio.run(main())

    def test_opening(self, world: World) -> None:
        async def main() -> None:
            async def opened() -> None:
                pool = world.make(min_size=1)
                try:
                    await pool.open(wait=True, timeout=PATIENCE)
                finally:
                    await asyncio.shield(pool.close())

            # Mostly it waits for a thread; what it waits for afterwards is what counts.
            async def between() -> None:
                await until(lambda: not world.provider.roles())

            await cancelled_everywhere(opened, between)
            await until(lambda: len(asyncio.all_tasks()) == 1, await others_than_this())

        asyncio.run(main())
        world.provider.wait_for_sessions({})

    def test_closing(self, world: World) -> None:
        """The lease is revoked anyway, in the background."""

        async def main() -> None:
            async def closed() -> None:
                pool = world.make(min_size=1)
                await pool.open(wait=True, timeout=PATIENCE)
                step = CancelledAt(pool.close(), steps)
                try:
                    await step
                finally:
                    assert pool.closed

            for steps in range(1, 12):
                task = asyncio.create_task(closed())
                await asyncio.gather(task, return_exceptions=True)
                await until(lambda: not world.provider.roles(), steps)
            await until(lambda: len(asyncio.all_tasks()) == 1)

        asyncio.run(main())
        world.provider.wait_for_sessions({})


async def _awaiting(awaitable: CancelledAt) -> object:
    return await awaitable


class TestLoops:
    def test_opening_twice_is_opening_once(self, world: World) -> None:
        async def main() -> None:
            async with world.pool() as pool:
                await pool.open()
                await asyncio.gather(pool.open(wait=True), pool.open())
                await use(pool)

        asyncio.run(main())
        assert world.provider.calls == ["fetch", "revoke 1"]

    def test_closing_from_another_task(self, world: World) -> None:
        async def main() -> None:
            async with world.pool(min_size=1, max_size=1) as pool:
                borrowed = await pool.getconn()
                waiting = [asyncio.create_task(pool.getconn(PATIENCE)) for _ in range(3)]
                await until(lambda: pool.get_stats().get("requests_waiting", 0) == 3)
                # It is not returned before: neither waits for long.
                closing = [asyncio.create_task(pool.close(timeout=0.1)) for _ in range(2)]
                await asyncio.gather(*closing)
                outcomes = await asyncio.gather(*waiting, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {psycopg_pool.PoolClosed}
                await borrowed.execute("SELECT 1")
                await pool.putconn(borrowed)
                assert borrowed.closed

        asyncio.run(main())
        wait_until(lambda: world.provider.roles() == [])

    def test_two_loops_one_after_the_other_on_one_keeper(self, world: World) -> None:
        async def main(generation: int) -> None:
            async with world.pool(keeper) as pool:
                await use(pool)
                assert pool.status().generation == generation
                await world.rotate(generation + 1)
                await settled(world, pool)

        with CredentialKeeper(world.provider, refresh=EAGER, observers=[world.events]) as keeper:
            asyncio.run(main(1))
            asyncio.run(main(2))
        assert world.provider.roles() == []

    def test_a_pool_may_be_created_without_a_loop(self, world: World) -> None:
        pool = world.make()

        async def main() -> None:
            async with pool:
                await use(pool)

        asyncio.run(main())
        assert world.provider.roles() == []

    def test_under_trio_nothing_is_started(self, world: World) -> None:
        trio = pytest.importorskip("trio", reason="trio is not installed")
        pool = world.make()
        with pytest.raises(ConfigurationError, match="needs a running asyncio event loop"):
            trio.run(pool.open)
        assert pool.status().keeper.state == "new"

    def test_a_loop_that_ends_before_its_pool(self, world: World) -> None:
        async def main() -> Pool:
            pool = world.make()
            await pool.open(wait=True)
            await use(pool)
            return pool

        pool = asyncio.run(main())
        # No loop hears what the keeper says now, and that is no error.
        world.provider.change()
        wait_until(lambda: world.provider.calls.count("fetch") == 2)
        assert not pool.closed
        keeper = pool._own_keeper
        assert keeper is not None
        del pool
        wait_until(lambda: world.provider.closed)
        assert keeper.status().state == "closed"
        assert world.provider.roles() == []
        world.provider.wait_for_sessions({})

    def test_nothing_waits_for_the_threads_of_the_loop(self, world: World) -> None:
        """Neither a checkout before the first credentials nor the end: others may fill them."""

        async def main() -> None:
            loop, held = asyncio.get_running_loop(), threading.Event()
            loop.set_default_executor(ThreadPoolExecutor(1))
            occupied = loop.run_in_executor(None, held.wait, 3 * PATIENCE)
            world.provider.gate.clear()
            pool = world.make()
            await pool.open()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(NotReady):
                    await pool.getconn(timeout=0.05)
                checkout = asyncio.create_task(pool.getconn(timeout=PATIENCE))
                await asyncio.sleep(0)
                world.provider.gate.set()
                await pool.putconn(await checkout)
                await pool.close()
            held.set()
            await occupied
            assert world.provider.roles() == []

        asyncio.run(main())

    def test_a_credential_source_that_hangs_does_not_block_the_loop(self, world: World) -> None:
        world.provider.gate.clear()

        async def main() -> None:
            pool = world.make()
            await pool.open()
            waiting = asyncio.create_task(pool.getconn(PATIENCE))
            await until(lambda: world.provider.calls == ["fetch"])
            for _ in range(100):
                await asyncio.sleep(0)
            assert not waiting.done()
            world.provider.gate.set()
            await pool.putconn(await waiting)
            await pool.close()

        asyncio.run(main())
