"""Single connections and listeners of both kinds behind one face, the sync one's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minting import Events, RoleProvider
from twins import EAGER, ConnectionFace, LoopThread

from ephemeral_creds import CredentialKeeper
from ephemeral_creds.contrib import psycopg as doors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from ephemeral_creds.testing import FakeClock, PostgresServer


class SyncKind:
    """For threads."""

    @contextmanager
    def connect(self, *args: Any, **options: Any) -> Iterator[Any]:
        with doors.connect(*args, **options) as connection:
            yield connection

    def open(self, *args: Any, **options: Any) -> Any:
        return doors.connect(*args, **options)

    def is_stale(self, connection: Any) -> bool:
        return doors.is_stale(connection)

    @contextmanager
    def listen(self, *args: Any, **options: Any) -> Iterator[Any]:
        with doors.listen(*args, **options) as listener:
            yield listener

    def close(self) -> None:
        pass


class ListenerFace:
    """An `AsyncListener` for callers in other threads."""

    def __init__(self, loop: LoopThread, listener: doors.AsyncListener) -> None:
        self.raw = listener
        self._loop = loop
        self.stop = listener.stop

    @property
    def generation(self) -> int:
        return self.raw.generation

    def get(self, timeout: float | None = None) -> Any:
        return self._loop.run(self.raw.get(timeout))

    def __iter__(self) -> Iterator[Any]:
        while (notify := self.get()) is not None:
            yield notify


class AsyncKind:
    """For asyncio, in a loop of its own."""

    def __init__(self) -> None:
        self.loop = LoopThread()

    @contextmanager
    def connect(self, *args: Any, **options: Any) -> Iterator[Any]:
        connection = self.open(*args, **options)
        run = self.loop.run
        try:
            yield connection
        except BaseException as error:
            # The error is handled in this thread, and awaited in another.
            async def leave(error: BaseException = error) -> None:
                try:
                    raise error
                except BaseException:
                    await connection.raw.__aexit__(type(error), error, error.__traceback__)

            run(leave())
            raise
        else:
            run(connection.raw.__aexit__(None, None, None))

    def open(self, *args: Any, **options: Any) -> Any:
        return ConnectionFace(self.loop, self.loop.run(doors.aconnect(*args, **options)))

    def is_stale(self, connection: Any) -> bool:
        return doors.is_stale(connection.raw)

    @contextmanager
    def listen(self, *args: Any, **options: Any) -> Iterator[Any]:
        async def make() -> doors.AsyncListener:
            return await doors.alisten(*args, **options).__aenter__()

        listener = self.loop.run(make())
        try:
            yield ListenerFace(self.loop, listener)
        finally:
            self.loop.run(listener.close())

    def close(self) -> None:
        self.loop.close()


KINDS: dict[str, Callable[[], Any]] = {"sync": SyncKind, "async": AsyncKind}


class World:
    """A keeper, and what it mints."""

    def __init__(self, kind: Any, server: PostgresServer, prefix: str, stack: ExitStack) -> None:
        self.kind = kind
        self.server = server
        self.prefix = prefix
        self.stack = stack
        self.events = Events()
        self.conninfo = server.conninfo()
        self.provider = RoleProvider(server, prefix)
        stack.callback(self.provider.disconnect)
        stack.callback(kind.close)

    def keeper(self, clock: FakeClock | None = None) -> CredentialKeeper:
        if clock is not None:
            self.provider._clock = clock
        keeper = CredentialKeeper(
            self.provider, refresh=EAGER, observers=[self.events], clock=clock
        )
        self.stack.callback(keeper.close)
        keeper.start()
        return keeper

    def role(self, number: int) -> str:
        return f"{self.prefix}_{number}"

    def end_sessions(self, number: int) -> None:
        """End the sessions of a role, as an administrator does."""
        with self.server.admin() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                [self.role(number)],
            )
