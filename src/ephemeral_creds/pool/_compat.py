"""What asyncio and threads do differently, in pairs.

The pools are written for asyncio; where `tools/make_sync.py` makes those for threads of them, the
second half of each pair takes the place of the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from psycopg_pool import AsyncConnectionPool, ConnectionPool

__all__ = [
    "AsyncTasks",
    "AsyncWakeup",
    "Tasks",
    "Wakeup",
    "cancel_query",
    "cancel_query_async",
    "closing",
    "closing_async",
    "open_at_construction",
    "open_at_construction_async",
    "resolved",
    "resolved_async",
]


# -- wake-ups --------------------------------------------------------------------------------


class AsyncWakeup:
    """Wakes tasks that look for work, without losing a wake-up between look and wait.

    `wake` may be called from any thread: the keeper's, for example.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counter = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Wake all that wait."""
        # Not += 1: of two threads that add at a time, one would bring back an old number.
        self.count = next(self._counter)
        if self._loop is not None:
            # Nothing waits in a closed loop.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, seen: int, timeout: float | None) -> int:
        """Wait up to `timeout` seconds until there were more than `seen` wake-ups.

        Returns:
            How many there were.
        """
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        # Before looking: a wake-up in between finds it.
        self._waiting.add(future)
        try:
            if self.count == seen:
                await asyncio.wait([future], timeout=timeout)
        finally:
            self._waiting.discard(future)
        return self.count


class Wakeup:
    """Wakes threads that look for work, without losing a wake-up between look and wait."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def wake(self) -> None:
        """Wake all that wait."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout: float | None) -> int:
        """Wait up to `timeout` seconds until there were more than `seen` wake-ups.

        Returns:
            How many there were.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.count != seen, timeout)
            return self.count


# -- running in the background ---------------------------------------------------------------


class AsyncTasks:
    """What runs in the background."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def spawn(self, target: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start something."""
        self._tasks = [t for t in self._tasks if not t.done()]
        self._tasks.append(asyncio.create_task(target(), name=name))

    async def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of it all, then cancel what is late."""
        others = [t for t in self._tasks if t is not asyncio.current_task()]
        if others:
            _, late = await asyncio.wait(others, timeout=timeout)
            for task in late:
                task.cancel()


class Tasks:
    """What runs in the background, in threads."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def spawn(self, target: Callable[[], None], name: str) -> None:
        """Start something.

        Raises:
            RuntimeError: the system allows the process no further thread.
        """
        self._threads = [t for t in self._threads if t.is_alive()]
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of it all."""
        deadline = monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - monotonic(), 0.0))


# -- cancelling ------------------------------------------------------------------------------


async def cancel_query_async(connection: psycopg.AsyncConnection[Any], timeout: float) -> None:
    """Have the server cancel what `connection` runs; wait `timeout` seconds for it at most."""
    # Without libpq 17 it continues in a thread, for as long as the server does not answer.
    with contextlib.suppress(psycopg.Error, TimeoutError):
        async with asyncio.timeout(timeout):
            await connection.cancel_safe(timeout=timeout)


def cancel_query(connection: psycopg.Connection[Any], timeout: float) -> None:
    """Have the server cancel what `connection` runs; wait `timeout` seconds for it at most."""

    def cancel() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.cancel_safe(timeout=timeout)

    if psycopg.capabilities.has_cancel_safe():
        cancel()
    else:
        # libpq's older way waits for as long as the server does not answer.
        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        thread.join(timeout)


# -- generators ------------------------------------------------------------------------------

closing, closing_async = contextlib.closing, contextlib.aclosing


# -- what may be awaited, or must be ---------------------------------------------------------


async def resolved_async(value: Any) -> Any:
    """Return `value`, or what it returns, or what that returns when it is awaited."""
    result = value() if callable(value) else value
    return await result if inspect.isawaitable(result) else result


def resolved(value: Any) -> Any:
    """Return `value`, or what it returns."""
    return value() if callable(value) else value


def open_at_construction_async(pool: AsyncConnectionPool[Any]) -> None:
    """Refuse: a constructor cannot wait.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        f"{type(pool).__name__}(open=True): opening has to be awaited, so use the pool "
        "with 'async with', or call 'await pool.open()'"
    )


def open_at_construction(pool: ConnectionPool[Any]) -> None:
    """Open the pool as its constructor's last act."""
    pool.open()
