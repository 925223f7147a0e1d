"""Running a transaction again that a rotation, or a lost connection, broke."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
import time
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

import psycopg
from tenacity import AsyncRetrying, Retrying, wait_random_exponential

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool
from ephemeral_creds.pool._sync.pool import RotatingConnectionPool
from ephemeral_creds.pool.retry_run import PROBE_TIMEOUT, Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from psycopg_pool.abc import ACT, CT
    from tenacity import RetryCallState

    from ephemeral_creds.pool.retry_run import Attempt

__all__ = ["AsyncRetries", "Retries", "retry_on_rotation"]

P = ParamSpec("P")
T = TypeVar("T")

# A connection that has just been lost is replaced within a connect, some tens of milliseconds;
# for anything that takes longer the next checkout waits. Random, so that those who were cut off
# together do not come back together.
_WAIT = wait_random_exponential(multiplier=0.05, max=1.0)


@overload
def retry_on_rotation(
    pool: RotatingConnectionPool[CT], *, attempts: int = 3, timeout: float = 30.0
) -> Retries: ...
@overload
def retry_on_rotation(
    pool: AsyncRotatingConnectionPool[ACT], *, attempts: int = 3, timeout: float = 30.0
) -> AsyncRetries: ...
def retry_on_rotation(
    pool: RotatingConnectionPool[CT] | AsyncRotatingConnectionPool[ACT],
    *,
    attempts: int = 3,
    timeout: float = 30.0,
) -> Retries | AsyncRetries:
    """Run a transaction again where a rotation or a lost connection broke it.

    As a decorator, of functions or coroutine functions according to the pool, or as a loop::

        @retry_on_rotation(pool)
        def transfer(amount: int) -> None:
            with pool.connection() as connection:
                ...

        for attempt in retry_on_rotation(pool):  # or: async for
            with attempt, pool.connection() as connection:
                ...

    Using it says that **the block is one transaction, and may run more than once**. It takes its
    connection from the pool itself, and does nothing that a rollback leaves behind, like sending
    a mail. Mind the COMMIT: where its answer is lost, the transaction may have happened
    anyway, and happens again. Only a key that the second run finds taken excludes that.

    Run again is what failed because the session ended (SQLSTATE 57P01, 57P02, 57P03, 57P05,
    class 08, or none on a connection that broke); because the pool cut off a connection at its
    deadline (57014); or because the session's role is gone (42501, 42704), as the pool's
    generations show, or else a test of one connection. An error that was raised ``from`` one of
    these is the same, as SQLAlchemy's and Django's are. Everything else is raised at once: a
    missing GRANT, a broken constraint, and a checkout that failed.

    Args:
        pool: where the block gets its connection from.
        attempts: how often it runs at most, the first time included.
        timeout: no further attempt starts later than this, in seconds. It does not interrupt one.

    When attempts or time are used up, the last error is raised as it is.

    Raises:
        ConfigurationError: an argument is wrong, or a function does not go with the pool.
    """
    _check_bounds(attempts, timeout)
    if isinstance(pool, RotatingConnectionPool):
        return Retries(pool, attempts, timeout)
    if isinstance(pool, AsyncRotatingConnectionPool):
        return AsyncRetries(pool, attempts, timeout)
    raise ConfigurationError(
        f"retry_on_rotation({type(pool).__name__}): the first argument must be a "
        "RotatingConnectionPool or an AsyncRotatingConnectionPool, as in @retry_on_rotation(pool)"
    )


class Retries:
    """What `retry_on_rotation` returns for a `RotatingConnectionPool`."""

    def __init__(
        self,
        pool: RotatingConnectionPool[Any],
        attempts: int,
        timeout: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._new_run = functools.partial(Run, pool, attempts, timeout, clock)
        self._sleep = sleep

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return `function` with its calls repeated where a rotation broke them."""
        _check_function(function, coroutine=False)

        @functools.wraps(function)
        def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in self:
                with attempt:
                    return function(*args, **kwargs)
            raise AssertionError("the last attempt returns or raises")

        return repeated

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts until one succeeds or fails for good."""
        run = self._new_run()

        def explains(state: RetryCallState) -> bool:
            explained = run.explains(state)
            if explained is None:
                # A checkout tests what is suspect.
                with contextlib.suppress(psycopg.Error):
                    self._pool.putconn(self._pool.getconn(PROBE_TIMEOUT))
                explained = run.disruption
            return explained

        for manager in Retrying(
            retry=explains,
            stop=run.is_over,
            wait=_WAIT,
            before_sleep=run.log,
            sleep=self._sleep,
            reraise=True,
        ):
            yield run.begin(manager)


class AsyncRetries:
    """What `retry_on_rotation` returns for an `AsyncRotatingConnectionPool`."""

    def __init__(
        self,
        pool: AsyncRotatingConnectionPool[Any],
        attempts: int,
        timeout: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._new_run = functools.partial(Run, pool, attempts, timeout, clock)
        self._sleep = sleep

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return `function` with its calls repeated where a rotation broke them."""
        _check_function(function, coroutine=True)

        @functools.wraps(function)
        async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
            async for attempt in self:
                with attempt:
                    return await function(*args, **kwargs)
            raise AssertionError("the last attempt returns or raises")

        return repeated

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Return attempts until one succeeds or fails for good."""
        return _AsyncAttempts(self._pool, self._new_run(), self._sleep)


class _AsyncAttempts:
    """No generator: one that is left early, by ``return``, needs the event loop to end it."""

    def __init__(
        self,
        pool: AsyncRotatingConnectionPool[Any],
        run: Run,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._run = run
        self._managers = AsyncRetrying(
            retry=self._explains,
            stop=run.is_over,
            wait=_WAIT,
            before_sleep=run.log,
            sleep=sleep,
            reraise=True,
        ).__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        return self._run.begin(await self._managers.__anext__())

    async def _explains(self, state: RetryCallState) -> bool:
        explained = self._run.explains(state)
        if explained is None:
            with contextlib.suppress(psycopg.Error):
                await self._pool.putconn(await self._pool.getconn(PROBE_TIMEOUT))
            explained = self._run.disruption
        return explained


def _check_bounds(attempts: object, timeout: object) -> None:
    if not isinstance(attempts, int) or attempts < 1:
        raise ConfigurationError(
            f"retry_on_rotation(attempts={attempts!r}): must be a whole number from 1 on"
        )
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigurationError(
            f"retry_on_rotation(timeout={timeout!r}): must be seconds, more than 0 and finite"
        )


def _check_function(function: object, *, coroutine: bool) -> None:
    generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    fits = inspect.iscoroutinefunction(function) is coroutine
    if not callable(function) or generator or not fits:
        name = getattr(function, "__qualname__", None) or repr(function)
        kind = "coroutine functions" if coroutine else "plain functions"
        raise ConfigurationError(
            f"@retry_on_rotation cannot repeat {name}: with this pool it repeats "
            f"{kind}, and no generators"
        )
