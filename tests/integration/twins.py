"""Both pools behind one face, the sync one's, so that each scenario is written once.

The async pool lives in an event loop in a thread of its own. Only what scenarios need is there.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, cast

import psycopg
from minting import PATIENCE, Events, RoleProvider

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    AsyncRotatingNullConnectionPool,
    CredentialKeeper,
    RefreshPolicy,
    RotatingConnectionPool,
    RotatingNullConnectionPool,
)
from ephemeral_creds.events import CredentialsPublished, LeaseRevoked
from ephemeral_creds.lifecycle.policy import Tuning
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ephemeral_creds import Grant
    from ephemeral_creds.testing import PostgresServer

T = TypeVar("T")

EAGER = RefreshPolicy(
    mint_interval=0.0,
    retry_initial=0.05,
    retry_max=0.2,
    _tuning=Tuning(config_retry=0.05, proof_retry=0.05),
)
"""Mints whenever it is asked to, so that tests need not wait."""


class LoopThread:
    """An event loop in a thread, for callers in other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="event-loop")
        self._thread.start()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Await something in the loop and return what comes of it."""

        async def call() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(3 * PATIENCE)

    def close(self) -> None:
        """Stop; whatever was made in the loop must have ended."""
        left = self.run(_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        assert left == []


async def _others() -> list[str]:
    """Return the names of the tasks that do not end."""
    others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
    if others:
        await asyncio.wait(others, timeout=PATIENCE)
    return [task.get_name() for task in others if not task.done()]


class Rows:
    """What a query brought."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        return self._rows


class ConnectionFace:
    """An `psycopg.AsyncConnection` for callers in other threads."""

    def __init__(self, loop: LoopThread, connection: psycopg.AsyncConnection[Any]) -> None:
        self.raw = connection
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def execute(self, query: str, parameters: Any = None) -> Rows:
        async def execute() -> Rows:
            cursor = await self.raw.execute(cast("Any", query), parameters)
            return Rows(await cursor.fetchall() if cursor.description else [])

        return self._loop.run(execute())

    def rollback(self) -> None:
        self._loop.run(self.raw.rollback())

    def commit(self) -> None:
        self._loop.run(self.raw.commit())

    def close(self) -> None:
        self._loop.run(self.raw.close())


class PoolFace:
    """An `AsyncRotatingConnectionPool` for callers in other threads."""

    def __init__(self, loop: LoopThread, pool: AsyncRotatingConnectionPool[Any]) -> None:
        self.raw = pool
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        self._loop.run(self.raw.open(wait, timeout))

    def wait(self, timeout: float = 30.0) -> None:
        self._loop.run(self.raw.wait(timeout))

    def close(self, timeout: float = 5.0) -> None:
        self._loop.run(self.raw.close(timeout))

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        self._loop.run(self.raw.resize(min_size, max_size))

    def check(self) -> None:
        self._loop.run(self.raw.check())

    def drain(self) -> None:
        self._loop.run(self.raw.drain())

    def refresh(self, timeout: float = 30.0) -> Grant:
        return self._loop.run(self.raw.refresh(timeout))

    def getconn(self, timeout: float | None = None) -> ConnectionFace:
        return ConnectionFace(self._loop, self._loop.run(self.raw.getconn(timeout)))

    def putconn(self, connection: ConnectionFace) -> None:
        self._loop.run(self.raw.putconn(connection.raw))

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[ConnectionFace]:
        manager = self.raw.connection(timeout)
        face = ConnectionFace(self._loop, self._loop.run(manager.__aenter__()))
        try:
            yield face
        except BaseException as error:
            if not self._loop.run(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._loop.run(manager.__aexit__(None, None, None))


class Gate(Protocol):
    """A connection class whose connects a test holds up, after the credentials were resolved."""

    opened: threading.Event
    reached: threading.Semaphore


class _SyncGate(psycopg.Connection[Any]):
    opened: ClassVar[threading.Event]
    reached: ClassVar[threading.Semaphore]

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        cls.reached.release()
        assert cls.opened.wait(PATIENCE)
        return super().connect(*args, **kwargs)


class _AsyncGate(psycopg.AsyncConnection[Any]):
    opened: ClassVar[threading.Event]
    reached: ClassVar[threading.Semaphore]

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        cls.reached.release()
        assert await asyncio.to_thread(cls.opened.wait, PATIENCE)
        return await super().connect(*args, **kwargs)


class Twin:
    """One of the two kinds of pool."""

    name = "sync"
    null_pool: ClassVar[type[Any]] = RotatingNullConnectionPool
    _gate: ClassVar[type[Any]] = _SyncGate

    def make(
        self, *args: Any, kind: type[Any] = RotatingConnectionPool, **options: Any
    ) -> RotatingConnectionPool[Any]:
        """Make a pool, by default of the library's class, and do not open it."""
        return cast("RotatingConnectionPool[Any]", kind(*args, **options))

    def connect(self, connection_class: type[Any], conninfo: str, **options: Any) -> Any:
        """Connect without a pool."""
        return connection_class.connect(conninfo, **options)

    def gate(self) -> Gate:
        """Make a connection class of the test's own, whose gate is open at first."""
        gate: Any = type("Gate", (self._gate,), {})
        gate.opened, gate.reached = threading.Event(), threading.Semaphore(0)
        gate.opened.set()
        return cast("Gate", gate)

    def close(self) -> None:
        """Everything has been closed."""


class AsyncTwin(Twin):
    """The async one, in a loop of its own. Callbacks of the user's get the bare connection."""

    name = "async"
    null_pool = AsyncRotatingNullConnectionPool
    _gate = _AsyncGate

    def __init__(self) -> None:
        self.loop = LoopThread()

    def make(
        self, *args: Any, kind: type[Any] = AsyncRotatingConnectionPool, **options: Any
    ) -> RotatingConnectionPool[Any]:
        for name in ("configure", "check", "reset"):
            if (function := options.get(name)) is not None:
                options[name] = _awaitable(function)
        pool: AsyncRotatingConnectionPool[Any] = kind(*args, **options)
        # To scenarios it is the same thing, and they are checked against the sync one.
        return cast("RotatingConnectionPool[Any]", PoolFace(self.loop, pool))

    def connect(self, connection_class: type[Any], conninfo: str, **options: Any) -> Any:
        opening = connection_class.connect(conninfo, **options)
        return ConnectionFace(self.loop, self.loop.run(opening))

    def close(self) -> None:
        self.loop.close()


def _awaitable(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[None]]:
    async def call(argument: Any) -> None:
        result = function(argument)
        if inspect.isawaitable(result):
            await result

    return call


TWINS: dict[str, Callable[[], Twin]] = {"sync": Twin, "async": AsyncTwin}


class Setup:
    """Makes pools of one kind on a provider of the test's own, and closes everything."""

    def __init__(self, twin: Twin, server: PostgresServer, prefix: str, stack: ExitStack) -> None:
        self.twin = twin
        self.server = server
        self.prefix = prefix
        self.provider = RoleProvider(server, prefix)
        self.events = Events()
        self.stack = stack
        self._clock: FakeClock | None = None
        stack.callback(self.provider.disconnect)
        stack.callback(twin.close)

    def clock(self) -> FakeClock:
        """Have the leases of pools to come age by a clock that the test moves."""
        self._clock = self.provider._clock = FakeClock()
        return self._clock

    def _keeper(self, policy: RefreshPolicy) -> CredentialKeeper:
        keeper = CredentialKeeper(
            self.provider, refresh=policy, observers=[self.events], clock=self._clock
        )
        self.stack.callback(keeper.close)
        keeper.start()
        return keeper

    def make(self, credentials: Any = None, **options: Any) -> RotatingConnectionPool[Any]:
        """Make a pool, by default on the test's own provider, and do not open it.

        With ``null=True``, it is one that keeps no connection.
        """
        if credentials is None and self._clock is not None:
            credentials = self._keeper(options.pop("refresh", EAGER))
        elif credentials is None:
            credentials = self.provider
            options = {"refresh": EAGER, "observers": [self.events]} | options
        if options.pop("null", False):
            options = {"min_size": 0, "kind": self.twin.null_pool} | options
        options = {"min_size": 4} | options
        conninfo = options.pop("conninfo", self.server.conninfo())
        pool = self.twin.make(credentials, conninfo, **options)
        self.stack.callback(pool.close)
        self.stack.callback(self.provider.gate.set)
        return pool

    def pool(self, credentials: Any = None, **options: Any) -> RotatingConnectionPool[Any]:
        """Make and open a pool; it waits for the connections unless ``wait=False``."""
        wait = options.pop("wait", True)
        pool = self.make(credentials, **options)
        pool.open(wait=wait, timeout=PATIENCE)
        return pool

    def role(self, number: int) -> str:
        """Return the name of a role that the provider minted."""
        return f"{self.prefix}_{number}"

    def rotate(self, generation: int) -> None:
        """Have the provider change, and wait until its new credentials are published."""
        self.provider.change()
        self.published(generation)

    def published(self, generation: int) -> None:
        self.events.wait_for(CredentialsPublished, generation)

    def revoked(self, count: int) -> None:
        self.events.wait_for(LeaseRevoked, count)


def user_of(connection: Any) -> str:
    """Ask PostgreSQL who a connection is."""
    row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    return str(row[0])


def work_until(
    pool: RotatingConnectionPool[Any],
    done: threading.Event,
    failures: list[BaseException] | None = None,
) -> None:
    """Run queries until `done`; note what fails, or fail.

    Most of the time it waits for PostgreSQL: threads that only compete for the interpreter keep
    what they are to disturb from happening, for a long time on a busy machine.
    """
    while not done.is_set():
        try:
            with pool.connection() as connection:
                connection.execute("SELECT pg_sleep(0.02), current_user")
        except BaseException as error:
            if failures is None:
                raise
            failures.append(error)


def rotate_ten_times(setup: Setup, pool: RotatingConnectionPool[Any], *, workers: int) -> None:
    """Rotate from generation 1 to 11 while some threads run queries, none of which fails."""
    done = threading.Event()
    running = [Worker(work_until, pool, done) for _ in range(workers)]
    try:
        for generation in range(2, 12):
            setup.rotate(generation)
            setup.revoked(generation - 1)
    finally:
        done.set()
    for worker in running:
        worker.get()


def wait_until(
    condition: Callable[[], object], what: str = "", patience: float = 3 * PATIENCE
) -> None:
    """Wait until a condition holds that no event announces, for `seconds` at most."""
    pause = threading.Event()
    give_up_at = time.monotonic() + patience
    while time.monotonic() < give_up_at:
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"in vain: {what or condition}")


class Worker:
    """A call in another thread."""

    def __init__(self, function: Callable[..., object], *args: object, **kwargs: object) -> None:
        self.error: BaseException | None = None
        self.value: object = None
        self._call = (function, args, kwargs)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        function, args, kwargs = self._call
        try:
            self.value = function(*args, **kwargs)
        except BaseException as error:
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> Worker:
        """Wait for its end, whatever that is."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), self._call
        return self

    def get(self) -> object:
        """Wait for its end; return or raise what came of it."""
        if (error := self.join().error) is not None:
            raise error
        return self.value
