# Made from _async/worker.py by tools/make_sync.py: change that, then run "nox -s twins".
"""Does what a pool's rotation says, in the background."""

from __future__ import annotations

import functools
import math
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, assert_never

import psycopg
from psycopg_pool.abc import CT
from psycopg_pool.pool import MaintenanceTask

from ephemeral_creds.observers import logger
from ephemeral_creds.pool import jobs
from ephemeral_creds.pool._compat import Tasks, cancel_query
from ephemeral_creds.pool.errors import LEFT_BORROWED
from ephemeral_creds.pool.login import clean_failure
from ephemeral_creds.pool.psycopg_pool_quirks import has_idle, replace_idle
from ephemeral_creds.pool.rotation import LOOK_AGAIN
from ephemeral_creds.pool.time_limit import hang_up

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool._compat import Wakeup
    from ephemeral_creds.pool._sync.connector import Connector
    from ephemeral_creds.pool.reconnects import ConnectFailure
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["Worker"]

# A cancel request is a connect of its own; without an answer the session is ended anyway.
_CANCEL_TIMEOUT = 1.0


class _Outage(MaintenanceTask):
    """Tells the user, as psycopg_pool does, in one of its workers."""

    def _run(self, pool: ConnectionPool[Any]) -> None:
        seconds = pool.reconnect_timeout
        logger.warning("%s: each reconnection attempt of %.1f s has failed", pool.name, seconds)
        pool.reconnect_failed()


class Worker(Generic[CT]):
    """Does the jobs of one pool's rotation, until that is stopped.

    What waits for PostgreSQL has a task of its own. The pool is held weakly, so that one that is
    forgotten can be collected.
    """

    def __init__(
        self,
        pool: ConnectionPool[Any],
        keeper: Keeper,
        connector: Connector[CT],
        rotation: Rotation[CT],
        wakeup: Wakeup,
    ) -> None:
        self._pool = weakref.ref(pool)
        self._outage = _Outage(pool)
        self._name = pool.name
        self._keeper = keeper
        self._connector = connector
        self._rotation = rotation
        self._wakeup = wakeup
        self._tasks = Tasks()
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

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for its end; `Rotation.stop` has been called."""
        self._tasks.join(timeout)

    def wait_until_returned(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is borrowed; `Rotation.stop` has been called."""
        deadline = monotonic() + timeout
        while True:
            seen = self._wakeup.count
            borrowed = self._rotation.overview.size
            remaining = deadline - monotonic()
            if not borrowed or remaining <= 0:
                break
            self._wakeup.wait(seen, min(remaining, LOOK_AGAIN))
        if borrowed:
            logger.warning(LEFT_BORROWED, self._name, borrowed)

    def _work(self) -> None:
        rotation = self._rotation
        while not rotation.stopped:
            seen = self._wakeup.count
            if (pool := self._pool()) is None:
                rotation.stop()
                break
            try:
                rotation.patience = pool.reconnect_timeout
                self.do_jobs()
                pause = rotation.deadline - monotonic()
            except Exception as error:  # noqa: BLE001 - the pool needs its worker
                logger.error("%s: rotating failed: %s", self._name, type(error).__name__)
                pause = LOOK_AGAIN
            del pool
            self._wakeup.wait(seen, pause if pause < math.inf else None)
        self.do_jobs()

    def do_jobs(self) -> None:
        """Do what is to be done now; what waits for PostgreSQL continues after that."""
        while todo := self._rotation.jobs(monotonic()):
            for job in todo:
                match job:
                    case jobs.Prove() | jobs.Preconnect() | jobs.AskEnd() | jobs.CutOff():
                        self._spawn(job)
                    case _:
                        self._do(job)

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

    def _do(self, job: jobs.Job) -> None:
        outcome: CT | ConnectFailure | bool | None = None
        try:
            outcome = self._perform(job)
        except Exception as error:  # noqa: BLE001 - a defect must not end the others
            kind, reason = type(job).__name__, type(error).__name__
            logger.error("%s: %s failed: %s", self._name, kind, reason)
            outcome = clean_failure(error)
        finally:
            self._rotation.done(job, outcome, monotonic())
        if self._rotation.stopped and outcome is not None:
            # It came too late for another task to do it.
            self.do_jobs()

    def _perform(self, job: jobs.Job) -> CT | ConnectFailure | bool | None:
        match job:
            case jobs.Tell(signal):
                self._keeper.signal(signal)
            case jobs.Report(event):
                self._keeper.report(event)
            case jobs.Retry(tasks):
                for task in tasks:
                    task.tick()
            case jobs.TellOutage():
                self._outage.tick()
            case jobs.Prove() | jobs.Preconnect() | jobs.AskEnd():
                return self._connector.preconnect(job.grant, job.opening)
            case jobs.ReplaceIdle():
                return self._replace_idle()
            case jobs.CloseUnwanted(connections):
                for connection in connections:
                    connection.close()
            case jobs.CutOff(connections):
                for connection in connections:
                    self._cut_off(connection)
            case _:
                assert_never(job)
        return None

    def _replace_idle(self) -> bool:
        rotation, pool = self._rotation, self._pool()
        if pool is None:
            return False
        while (spare := rotation.take_spare()) is not None:
            old = None
            try:
                old = replace_idle(pool, rotation.is_stale, spare)
            finally:
                if old is None:
                    rotation.put_back(spare)
            if old is None:
                return False
            try:
                old.close()
            finally:
                rotation.replaced(spare)
        return has_idle(pool, rotation.is_stale)

    def _cut_off(self, connection: CT) -> None:
        """Cancel what a borrowed connection is doing, then end its session.

        Its user gets an error from the query, or else from the next one.
        """
        try:
            cancel_query(connection, _CANCEL_TIMEOUT)
            hang_up(connection)
        except (psycopg.Error, OSError) as error:
            # It was returned or broke meanwhile.
            logger.info("%s: not cut off: %s", self._name, type(error).__name__)
