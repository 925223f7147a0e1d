"""Replacing idle connections whose credentials have been replaced."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import QueuePool
from sqlalchemy.util import greenlet_spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["IdleReplacer", "Outcome", "replace_idle"]

_NAME = "ephemeral-creds-idle"

# Between two connects: new ones are opened no faster than a server bears easily, and a pool of
# twenty is through after a second.
_PACE = 0.05

# After the server has refused, or not answered.
_RETRY = 5.0

# How long an engine that is disposed of waits for a replacement that is under way.
_PATIENCE = 5.0

# When to look for idle ones after a change: one that is just being returned is not idle yet.
_LOOKS = (0.01, 0.1, 1.0)


class Outcome(Enum):
    """What came of one replacement."""

    NOTHING = auto()
    """No idle connection has to be replaced."""
    DONE = auto()
    """One was."""
    FAILED = auto()
    """No other can be opened now."""


def replace_idle(
    pool: Pool,
    is_old: Callable[[ConnectionPoolEntry], bool],
    must_close: Callable[[ConnectionPoolEntry], bool],
) -> Outcome:
    """Open a connection in the place of an idle one that is old, then close that one.

    Args:
        pool: the pool. Only those that keep idle connections in a queue have any.
        is_old: tells whether an entry of the pool has to be replaced. Must not block.
        must_close: tells whether to close it also where no other can be opened.
    """
    old = _take_idle(pool, is_old) if isinstance(pool, QueuePool) else None
    if old is None:
        return Outcome.NOTHING
    # What pools of a user's own override; public pools differ in these only.
    keeps: Any = pool
    try:
        new = keeps._create_connection()  # noqa: SLF001
    except BaseException as error:
        if must_close(old):
            old.close()
        keeps._do_return_conn(old)  # noqa: SLF001
        if isinstance(error, Exception):
            return Outcome.FAILED
        raise
    try:
        keeps._do_return_conn(new)  # noqa: SLF001
    finally:
        old.close()
    return Outcome.DONE


def _take_idle(
    pool: QueuePool, is_old: Callable[[ConnectionPoolEntry], bool]
) -> ConnectionPoolEntry | None:
    """Take an old connection out of the queue of idle ones, as a checkout would.

    There is no public way to choose one; a checkout gets the first or the last.
    """
    queue: Any = pool._pool  # noqa: SLF001 - so it has been called since 0.5
    if hasattr(queue, "mutex"):
        entries, guard = queue.queue, queue.mutex
    else:
        # asyncio's, in whose loop this runs.
        entries, guard = queue._queue._queue, contextlib.nullcontext()  # noqa: SLF001
    with guard:
        found: ConnectionPoolEntry | None = next(filter(is_old, entries), None)
        if found is not None:
            entries.remove(found)
        return found


class IdleReplacer:
    """Replaces idle connections one by one, in a thread or task that ends when there are no more.

    Args:
        replace: replaces one. With an event loop, it is called in a greenlet there.
    """

    def __init__(self, replace: Callable[[], Outcome]) -> None:
        self._replace = replace
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._woken = self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause: asyncio.Event

    def wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Look for idle connections, in `loop` or else in a thread; returns at once."""
        with self._lock:
            self._woken = True
            # One that was started in a loop that is closed never ends.
            if self._ended.is_set() or (self._running and loop is self._loop):
                return
            self._running, self._loop = True, loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._start_task)
            else:
                threading.Thread(target=self._run, name=_NAME, daemon=True).start()
        except RuntimeError:
            # The loop is closed, and its connections with it; or there is no further thread, and
            # checkouts replace them.
            self._running = False

    @property
    def ended(self) -> bool:
        """Whether it was told to end."""
        return self._ended.is_set()

    def end(self) -> None:
        """Replace no more; returns at once."""
        self._ended.set()

    async def ended_here(self) -> None:
        """Wait until a replacement that was under way in this event loop is done, after `end`.

        The loop may be closed right after the engine was disposed of.
        """
        task = self._task
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            self._pause.set()
            await asyncio.wait({task}, timeout=_PATIENCE)

    def _run(self) -> None:
        try:
            for pause in self._steps():
                if self._ended.wait(pause):
                    break
        except BaseException:
            self._running = False
            raise

    def _start_task(self) -> None:
        self._pause = asyncio.Event()
        self._task = asyncio.ensure_future(self._run_in_loop())
        self._task.set_name(_NAME)

    async def _run_in_loop(self) -> None:
        steps = self._steps()
        try:
            while (pause := await greenlet_spawn(_next, steps)) is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._pause.wait(), pause)
                if self._ended.is_set():
                    break
        except BaseException:
            self._running = False
            raise

    def _steps(self) -> Iterator[float]:
        """Replace one connection after the other; yield for how many seconds to pause."""
        looks = iter(_LOOKS)
        while True:
            with self._lock:
                if self._woken:
                    self._woken, looks = False, iter(_LOOKS)
                pause = next(looks, None)
                if pause is None:
                    self._running = False
                    return
            yield pause
            while (outcome := self._replace()) is not Outcome.NOTHING:
                looks = iter(_LOOKS)
                yield _PACE if outcome is Outcome.DONE else _RETRY


def _next(steps: Iterator[float]) -> float | None:
    return next(steps, None)
