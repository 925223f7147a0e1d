"""Job queues and checkpointers on our pools, through rotations that end the old sessions.

Workers that can do without look for jobs only when PostgreSQL notifies them: one whose notification
was lost would wait for an hour.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from contextlib import closing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from minting import PATIENCE, Events, RoleProvider
from psycopg import sql
from psycopg.rows import dict_row
from twins import EAGER, wait_until

from ephemeral_creds import AsyncRotatingConnectionPool, RotatingConnectionPool, RotationPolicy
from ephemeral_creds.events import LeaseRevoked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from ephemeral_creds import Grant
    from ephemeral_creds.testing import PostgresServer

pytestmark = pytest.mark.slow

ROTATIONS = 5


class StrictRoles(RoleProvider):
    """Each revocation ends the sessions of its role, too."""

    def revoke(self, grant: Grant) -> None:
        self._admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            [grant.credentials.username],
        )
        super().revoke(grant)


class World:
    """A database, and the role that owns what is in it and that minted roles act as."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.provider = StrictRoles(server, f"{name}_role")
        self.provider.grants = [name]
        self.events = Events()
        self.options: dict[str, Any] = {
            "conninfo": server.conninfo(name),
            "session_role": name,
            "refresh": EAGER,
            "observers": [self.events],
            "max_size": 4,
        }

    @property
    def revoked(self) -> int:
        return len(self.events.of(LeaseRevoked))

    def pool(self, **options: Any) -> AsyncRotatingConnectionPool[Any]:
        return AsyncRotatingConnectionPool(self.provider, **self.options | options)

    async def rotate(self, run: Callable[[], Awaitable[object]]) -> None:
        """Rotate while `run` is called again and again, and while it is not; `run` works later."""
        for rotation in range(ROTATIONS):
            self.provider.change()
            if rotation % 2:
                await asyncio.to_thread(self.events.wait_for, LeaseRevoked, rotation + 1)
            while self.revoked <= rotation:
                await run()
            for _ in range(3):
                await run()
        assert self.provider.live == {f"{self.provider.prefix}_{ROTATIONS + 1}"}

    async def break_listener(
        self, pool: AsyncRotatingConnectionPool[Any], run: Callable[[], Awaitable[object]]
    ) -> None:
        """End the session outside the pool; `run` works while there is no other, and later."""

        def outside() -> list[int]:
            pooled = [c.info.backend_pid for c in pool._rotation.open_connections()]
            rows = self.provider._admin.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename LIKE %s AND pid <> ALL(%s)",
                [f"{self.provider.prefix}%", pooled],
            ).fetchall()
            return [int(str(pid)) for (pid,) in rows]

        # What the pool has closed, or is opening, may still be one for a moment.
        await asyncio.to_thread(wait_until, lambda: len(outside()) == 1)
        ended = self.provider._admin.execute(
            "SELECT pg_terminate_backend(%s)", outside()
        ).fetchall()
        assert ended == [(True,)]
        for _ in range(3):
            await run()


@pytest.fixture
def world(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[World]:
    name = unique("application")
    owner = sql.Identifier(name)
    with closing(postgres.admin()) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(owner))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(owner, owner))
        world = World(postgres, name)
        try:
            yield world
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(owner))
            world.provider.disconnect()
            admin.execute(sql.SQL("DROP ROLE {}").format(owner))


class Jobs:
    """Jobs one after the other: each is enqueued when the one before it has run."""

    def __init__(self) -> None:
        self.enqueued = 0
        self.ran: list[int] = []
        self._changed = asyncio.Event()

    def run(self, number: int) -> None:
        self.ran.append(number)
        self._changed.set()

    async def one(self, enqueue: Callable[[int], Awaitable[object]]) -> None:
        self.enqueued += 1
        self._changed.clear()
        await enqueue(self.enqueued)
        await asyncio.wait_for(self._changed.wait(), PATIENCE)

    def check(self) -> None:
        """Each has run, and once."""
        assert self.ran == list(range(1, self.enqueued + 1))
        assert self.enqueued >= 3 * ROTATIONS


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await main

    asyncio.run(limited())


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of connections that listened and broke, and of what applications report."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno > logging.WARNING or "LISTEN connection" in record.getMessage()
    ]


# -- procrastinate ---------------------------------------------------------------------------


class Procrastination:
    """An application of procrastinate's with one task.

    Its worker forgets a notification that comes while it looks for jobs, with any connector: see
    `procrastinate.worker`. This one looks again then.
    """

    def __init__(self, connector: Any) -> None:
        procrastinate: Any = pytest.importorskip("procrastinate")
        self.jobs = Jobs()
        self.app = procrastinate.App(connector=connector)
        self._notifications = 0
        self._listen = connector.listen_notify
        self._fetch = self.app.job_manager.fetch_job
        connector.listen_notify = self._listen_notify
        self.app.job_manager.fetch_job = self._fetch_job

        async def note(number: int) -> None:
            self.jobs.run(number)

        self._note = self.app.task(note, name="note")

    async def _listen_notify(self, on_notification: Any, channels: Any) -> None:
        async def counted(**notification: Any) -> None:
            self._notifications += 1
            await on_notification(**notification)

        await self._listen(on_notification=counted, channels=channels)

    async def _fetch_job(self, **options: Any) -> Any:
        while True:
            before = self._notifications
            job = await self._fetch(**options)
            if job is not None or self._notifications == before:
                return job

    async def rotate(
        self, world: World, then: Callable[[], Awaitable[None]] | None = None, **options: Any
    ) -> None:
        await self.app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            self.app.run_worker_async(install_signal_handlers=False, **options)
        )
        try:
            await world.rotate(self.one)
            if then is not None:
                await then()
        finally:
            await ended(worker)
        self.jobs.check()

    async def one(self) -> None:
        await self.jobs.one(lambda number: self._note.defer_async(number=number))


def test_procrastinate_needs_no_polling(world: World, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("procrastinate")
    from ephemeral_creds.contrib.procrastinate import RotatingConnector

    async def main() -> None:
        work = Procrastination(RotatingConnector())
        async with world.pool() as pool, work.app.open_async(pool):

            async def then() -> None:
                assert failures(caplog) == []
                await world.break_listener(pool, work.one)

            await work.rotate(
                world, then, fetch_job_polling_interval=3600.0, abort_job_polling_interval=3600.0
            )

    run(main())


def test_procrastinate_works_as_it_is_with_polling(world: World) -> None:
    procrastinate = pytest.importorskip("procrastinate")

    async def main() -> None:
        factory = functools.partial(AsyncRotatingConnectionPool, world.provider, **world.options)
        work = Procrastination(procrastinate.PsycopgConnector(pool_factory=factory))
        async with work.app.open_async():
            await work.rotate(world, fetch_job_polling_interval=0.5)

    run(main())


# -- pgqueuer --------------------------------------------------------------------------------


def test_pgqueuer_needs_no_polling(world: World, caplog: pytest.LogCaptureFixture) -> None:
    pgqueuer = pytest.importorskip("pgqueuer")
    from ephemeral_creds.contrib.pgqueuer import PoolDriver

    async def main() -> None:
        jobs = Jobs()
        async with world.pool() as pool:
            application = pgqueuer.PgQueuer(PoolDriver(pool))
            await application.queries.install()

            async def note(job: Any) -> None:
                jobs.run(int(job.payload))

            application.entrypoint("note")(note)

            async def enqueue(number: int) -> None:
                await application.queries.enqueue("note", str(number).encode())

            worker = asyncio.create_task(application.run(dequeue_timeout=timedelta(hours=1)))
            try:
                await world.rotate(lambda: jobs.one(enqueue))
                assert (await application.qm.listener_healthy()).type == "health_check_event"
                assert failures(caplog) == []
                await world.break_listener(pool, lambda: jobs.one(enqueue))
            finally:
                application.shutdown.set()
                await worker
        jobs.check()

    run(main())


def test_pgqueuer_listeners_come_and_go(world: World) -> None:
    pytest.importorskip("pgqueuer")
    from ephemeral_creds.contrib.pgqueuer import PoolDriver

    async def main() -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        async def next_heard() -> tuple[str, str]:
            while (found := await heard.get())[1].startswith("{"):
                pass  # it is asked to look for jobs
            return found

        def listener(name: str) -> Callable[[Any], None]:
            return lambda payload: heard.put_nowait((name, payload))

        one, two = listener("one"), listener("two")
        async with world.pool() as pool:
            async with PoolDriver(pool) as driver:
                await driver.add_listener("First", one)
                await driver.notify("First", "a")
                assert await next_heard() == ("one", "a")
                await driver.add_listener("Second", two)
                await driver.add_listener("Second", one)
                await driver.remove_listener("First", one)
                await driver.notify("First", "b")
                await driver.notify("Second", "c")
                assert {await next_heard(), await next_heard()} == {("one", "c"), ("two", "c")}
            assert driver.shutdown.is_set()

    run(main())


# -- saq -------------------------------------------------------------------------------------


def test_saq_works_as_it_is(world: World) -> None:
    saq = pytest.importorskip("saq")
    postgres = pytest.importorskip("saq.queue.postgres")

    async def main() -> None:
        jobs = Jobs()

        async def note(_: Any, *, number: int) -> None:
            jobs.run(number)

        pool = world.pool(rotation=RotationPolicy(listening="end"), kwargs={"autocommit": True})
        queue = postgres.PostgresQueue(pool, manage_pool_lifecycle=True, min_size=2, max_size=4)
        await queue.connect()
        worker = saq.Worker(queue, [("note", note)], concurrency=2)
        worker.SIGNALS = []
        work = asyncio.create_task(worker.start())
        try:
            await world.rotate(
                lambda: jobs.one(lambda number: queue.enqueue("note", number=number))
            )
        finally:
            await ended(work)
            await queue.disconnect()
        jobs.check()

    run(main())


# -- langgraph -------------------------------------------------------------------------------

THREAD: dict[str, Any] = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
LANGGRAPH = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}


def checkpoint(number: int) -> dict[str, Any]:
    base = pytest.importorskip("langgraph.checkpoint.base")
    return {**base.empty_checkpoint(), "channel_values": {"number": number}}


def test_langgraph_saves_checkpoints_async(world: World) -> None:
    aio = pytest.importorskip("langgraph.checkpoint.postgres.aio")

    async def main() -> None:
        saved = 0
        async with world.pool(kwargs=LANGGRAPH) as pool:
            saver = aio.AsyncPostgresSaver(pool)
            await saver.setup()

            async def save() -> None:
                nonlocal saved
                saved += 1
                after = await saver.aput(
                    THREAD, checkpoint(saved), {"step": saved}, {"number": f"{saved}"}
                )
                await saver.aput_writes(after, [("number", saved)], "task")
                found = await saver.aget_tuple(THREAD)
                assert found.metadata["step"] == saved
                assert found.pending_writes == [("task", "number", saved)]

            await world.rotate(save)
            steps = [found.metadata["step"] async for found in saver.alist(THREAD)]
            assert steps == list(range(saved, 0, -1))

    run(main())


def test_langgraph_saves_checkpoints(world: World) -> None:
    sync = pytest.importorskip("langgraph.checkpoint.postgres")
    saved = 0
    with RotatingConnectionPool(world.provider, kwargs=LANGGRAPH, **world.options) as pool:
        saver = sync.PostgresSaver(pool)
        saver.setup()

        def save() -> None:
            nonlocal saved
            saved += 1
            after = saver.put(THREAD, checkpoint(saved), {"step": saved}, {"number": f"{saved}"})
            saver.put_writes(after, [("number", saved)], "task")
            assert saver.get_tuple(THREAD).metadata["step"] == saved

        run(world.rotate(functools.partial(asyncio.to_thread, save)))
        steps = [found.metadata["step"] for found in saver.list(THREAD)]
        assert steps == list(range(saved, 0, -1))


def test_langgraph_stores_values(world: World) -> None:
    stores = pytest.importorskip("langgraph.store.postgres")

    async def main() -> None:
        stored = 0
        async with world.pool(kwargs=LANGGRAPH) as pool:
            store = stores.AsyncPostgresStore(pool)
            await store.setup()

            async def put() -> None:
                nonlocal stored
                stored += 1
                await store.aput(("numbers",), str(stored), {"number": stored})
                found = await store.aget(("numbers",), str(stored))
                assert found.value == {"number": stored}

            await world.rotate(put)
            await store.aput(("numbers",), "1", {"number": 0})
            assert len(await store.asearch(("numbers",), limit=2 * stored)) == stored
            store._task.cancel()

    run(main())
