"""SQLAlchemy's engines behind one face: sync and async, psycopg and asyncpg."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from load import Load
from minting import PATIENCE, Events, RoleProvider
from psycopg import sql
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from twins import EAGER, LoopThread

from ephemeral_creds import CredentialKeeper
from ephemeral_creds.contrib.sqlalchemy import attach
from ephemeral_creds.events import CredentialsPublished, LeaseRevoked
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from ephemeral_creds.testing import PostgresServer

T = TypeVar("T")

KINDS = ("sync psycopg", "async psycopg", "async asyncpg")


class EngineFace:
    """An engine for callers in any thread.

    Args:
        raw: the engine.
        loop: where it is used, if it is an async one.
    """

    def __init__(self, raw: Any, loop: LoopThread | None) -> None:
        self.raw = raw
        self._loop = loop

    @property
    def sync(self) -> Engine:
        """The engine, or the one inside it."""
        engine: Engine = self.raw if self._loop is None else self.raw.sync_engine
        return engine

    def run(self, function: Callable[[Connection], T]) -> T:
        """Call `function` with a connection, and commit."""
        if self._loop is None:
            with self.raw.begin() as connection:
                return function(connection)

        async def call() -> T:
            async with self.raw.begin() as connection:
                result: T = await connection.run_sync(function)
                return result

        return self._loop.run(call())

    def value(self, query: str = "SELECT current_user::text") -> Any:
        """Return the one value that `query` brings."""
        return self.run(lambda connection: connection.scalar(text(query)))

    def load(self, workers: int = 4) -> Load:
        """Return transactions without a pause, which wait for PostgreSQL most of the time."""
        return Load(lambda: self.value("SELECT pg_sleep(0.01)"), workers, pause=0)

    def hold(self, count: int) -> set[int]:
        """Check `count` connections out at once, and return their processes in the server."""
        pids: set[int] = set()
        barrier = threading.Barrier(count)

        def work() -> None:
            query = "SELECT pg_backend_pid()"
            pids.add(self.run(lambda connection: self._wait(connection, query, barrier)))

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return pids

    def _wait(self, connection: Connection, query: str, barrier: threading.Barrier) -> int:
        pid = int(connection.scalar(text(query)))
        if self._loop is None:
            barrier.wait(PATIENCE)
        else:
            from sqlalchemy.util import await_only

            from ephemeral_creds.keeper.loop import in_thread

            await_only(in_thread(barrier.wait, PATIENCE))
        return pid

    def catch_up(self) -> None:
        """Have the event loop see what the server has sent."""
        for _ in range(2):
            if self._loop is not None:
                self._loop.run(asyncio.sleep(0))

    def dispose(self, **options: Any) -> None:
        """Dispose of it; it may be used again."""
        if self._loop is None:
            self.raw.dispose(**options)
        else:
            self._loop.run(self.raw.dispose(**options))


class World:
    """Makes engines of one kind on a provider of the test's own, and closes everything."""

    def __init__(
        self,
        kind: str,
        server: PostgresServer,
        prefix: str,
        stack: ExitStack,
    ) -> None:
        self.kind = kind
        self.server = server
        self.prefix = prefix
        self.stack = stack
        self.provider = RoleProvider(server, prefix)
        self.events = Events()
        self.clock: FakeClock | None = None
        stack.callback(self.provider.disconnect)

    def with_fake_clock(self) -> FakeClock:
        """Have leases come age by a clock that the test moves."""
        self.clock = self.provider._clock = FakeClock()
        return self.clock

    def keeper(self) -> CredentialKeeper:
        keeper = CredentialKeeper(
            self.provider, refresh=EAGER, observers=[self.events], clock=self.clock
        )
        self.stack.enter_context(keeper)
        return keeper

    def engine(self, keeper: CredentialKeeper | None = None, **options: Any) -> EngineFace:
        """Make an engine with credentials."""
        attached = {name: options.pop(name) for name in ("session_role",) if name in options}
        face = self.plain(**options)
        attach(face.raw, keeper or self.keeper(), **attached)
        return face

    def plain(self, query: str = "", **options: Any) -> EngineFace:
        """Make an engine without credentials; `query` is that of its URL."""
        mode, driver = self.kind.split()
        url = f"postgresql+{driver}://{self.server.host}:{self.server.port}/postgres{query}"
        loop = None
        if mode == "async":
            loop = LoopThread()
            self.stack.callback(loop.close)
            face = EngineFace(create_async_engine(url, **options), loop)
        else:
            face = EngineFace(create_engine(url, **options), None)
        self.stack.callback(face.dispose)
        return face

    def role(self, number: int) -> str:
        return f"{self.prefix}_{number}"

    def rotate(self, generation: int) -> None:
        """Have the provider change, and wait until its new credentials are published."""
        self.provider.change()
        self.events.wait_for(CredentialsPublished, generation)

    def revoked(self, count: int) -> None:
        self.events.wait_for(LeaseRevoked, count)

    def drop(self, number: int, *, end_sessions: bool) -> None:
        """Drop a role without telling the keeper or the pool."""
        admin = self.provider._admin
        if end_sessions:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s",
                [self.role(number)],
            )
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.role(number))))
