"""Does what a pool's rotation says, in the background."""

from __future__ import annotations

import functools
import math
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, assert_never

import psycopg
from psycopg_pool.abc import ACT
from psycopg_pool.pool_async import MaintenanceTask

from ephemeral_creds.observers import logger
from ephemeral_creds.pool import jobs
from ephemeral_creds.pool._compat import AsyncTasks, cancel_query_async
from ephemeral_creds.pool.errors import LEFT_BORROWED
from ephemeral_creds.pool.login import clean_failure
from ephemeral_creds.pool.psycopg_pool_quirks import has_idle, replace_idle_async
from ephemeral_creds.pool.rotation import LOOK_AGAIN
from ephemeral_creds.pool.time_limit import hang_up

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool._async.connector import AsyncConnector
    from ephemeral_creds.pool._compat import AsyncWakeup
    from ephemeral_creds.pool.reconnects import ConnectFailure
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["AsyncWorker"]

# A cancel request is a connect of its own; without an answer the session is ended anyway.
_CANCEL_TIMEOUT = 1.0


class _Outage(MaintenanceTask):
    """Tells the user, as psycopg_pool does, in one of its workers."""

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        seconds = pool.reconnect_timeout
        logger.warning("%s: each reconnection attempt of %.1f s has failed", pool.name, seconds)
        await pool.reconnect_failed()


class AsyncWorker(Generic[ACT]):
    """Does the jobs of one pool's rotation, until that is stopped.

    What waits for PostgreSQL has a task of its own. The pool is held weakly, so that one that is
    forgotten can be collected.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        keeper: Keeper,
        connector: AsyncConnector[ACT],
        rotation: Rotation[ACT],
        wakeup: AsyncWakeup,
    ) -> None:
        self._pool = weakref.ref(pool)
        self._outage = _Outage(pool)
        self._name = pool.name
        self._keeper = keeper
        self._connector = connector
        self._rotation = rotation
        self._wakeup = wakeup
        self._tasks = AsyncTasks()
        self._started = False

    def start(self) -> None:
        """Start working, unless it does already.

        Raises:
            RuntimeError: the system allows the process no further thread. It can be tried again.
        """
        if not self._started:
            self._rotation.name = self._name
            self._tasks.spawn(self._work, f"{self._name}-rotation")
            self._started = True

    async def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for its end; `Rotation.stop` has been called."""
        await self._tasks.join(timeout)

    async def wait_until_returned(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is borrowed; `Rotation.stop` has been called."""
        deadline = monotonic() + timeout
        while True:
            seen = self._wakeup.count
            borrowed = self._rotation.overview.size
            remaining = deadline - monotonic()
            if not borrowed or remaining <= 0:
                break
            await self._wakeup.wait(seen, min(remaining, LOOK_AGAIN))
        if borrowed:
            logger.warning(LEFT_BORROWED, self._name, borrowed)

    async def _work(self) -> None:
        rotation = self._rotation
        while not rotation.stopped:
            seen = self._wakeup.count
            if (pool := self._pool()) is None:
                rotation.stop()
                break
            try:
                rotation.patience = pool.reconnect_timeout
                await self.do_jobs()
                pause = rotation.deadline - monotonic()
            except Exception as error:  # noqa: BLE001 - the pool needs its worker
                logger.error("%s: rotating failed: %s", self._name, type(error).__name__)
                pause = LOOK_AGAIN
            del pool
            await self._wakeup.wait(seen, pause if pause < math.inf else None)
        await self.do_jobs()

    async def do_jobs(self) -> None:
        """Do what is to be done now; what waits for PostgreSQL continues after that."""
        while todo := self._rotation.jobs(monotonic()):
            for job in todo:
                match job:
                    case jobs.Prove() | jobs.Preconnect() | jobs.AskEnd() | jobs.CutOff():
                        self._spawn(job)
                    case _:
                        await self._do(job)

    def _spawn(self, job: jobs.Job) -> None:
        name = f"{self._name}-{type(job).__name__.lower()}"
        try:
            # `join` may be waiting for the others already.
            if not self._rotation.stopped:
                self._tasks.spawn(functools.partial(self._do, job), name)
                return
            outcome = None
        except RuntimeError as error:  # the system allows no further thread
            outcome = clean_failure(error)
        self._rotation.done(job, outcome, monotonic())

    async def _do(self, job: jobs.Job) -> None:
        outcome: ACT | ConnectFailure | bool | None = None
        try:
            outcome = await self._perform(job)
        except Exception as error:  # noqa: BLE001 - a defect must not end the others
            kind, reason = type(job).__name__, type(error).__name__
            logger.error("%s: %s failed: %s", self._name, kind, reason)
            outcome = clean_failure(error)
        finally:
            self._rotation.done(job, outcome, monotonic())
        if self._rotation.stopped and outcome is not None:
            # It came too late for another task to do it.
            await self.do_jobs()

    async def _perform(self, job: jobs.Job) -> ACT | ConnectFailure | bool | None:
        match job:
            case jobs.Tell(signal):
                self._keeper.signal(signal)
            case jobs.Report(event):
                self._keeper.report(event)
            case jobs.Retry(tasks):
                for task in tasks:
                    await task.tick()
            case jobs.TellOutage():
                await self._outage.tick()
            case jobs.Prove() | jobs.Preconnect() | jobs.AskEnd():
                return await self._connector.preconnect(job.grant, job.opening)
            case jobs.ReplaceIdle():
                return await self._replace_idle()
            case jobs.CloseUnwanted(connections):
                for connection in connections:
                    await connection.close()
            case jobs.CutOff(connections):
                for connection in connections:
                    await self._cut_off(connection)
            case _:
                assert_never(job)
        return None

    async def _replace_idle(self) -> bool:
        rotation, pool = self._rotation, self._pool()
        if pool is None:
            return False
        while (spare := rotation.take_spare()) is not None:
            old = None
            try:
                old = await replace_idle_async(pool, rotation.is_stale, spare)
            finally:
                if old is None:
                    rotation.put_back(spare)
            if old is None:
                return False
            try:
                await old.close()
            finally:
                rotation.replaced(spare)
        return has_idle(pool, rotation.is_stale)

    async def _cut_off(self, connection: ACT) -> None:
        """Cancel what a borrowed connection is doing, then end its session.

        Its user gets an error from the query, or else from the next one.
        """
        try:
            await cancel_query_async(connection, _CANCEL_TIMEOUT)
            hang_up(connection)
        except (psycopg.Error, OSError) as error:
            # It was returned or broke meanwhile.
            logger.info("%s: not cut off: %s", self._name, type(error).__name__)
