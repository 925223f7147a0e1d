"""What the pools do inside psycopg_pool: when to connect, what to lend, what to take back."""

from __future__ import annotations

import math
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from psycopg_pool import AsyncConnectionPool, PoolTimeout
from psycopg_pool.abc import ACT
from psycopg_pool.base import AttemptWithBackoff
from psycopg_pool.pool_async import AddConnection, MaintenanceTask, ReturnConnection

from ephemeral_creds.pool.base import LeasedPool, borrowed_here
from ephemeral_creds.pool.errors import UnfitConnection
from ephemeral_creds.pool.login import clean_failure
from ephemeral_creds.pool.psycopg_pool_quirks import (
    check_borrowed,
    count_refused,
    fail_waiting_async,
    finish_return_async,
    replace_returned_async,
    return_by_worker_async,
    uncount_request,
)

if TYPE_CHECKING:
    from ephemeral_creds.pool._async.connector import AsyncConnector
    from ephemeral_creds.pool._async.vetting import AsyncVetting

__all__ = ["AT_ONCE", "AsyncInternals"]

AT_ONCE = 0.001
"""What psycopg_pool is given where no time is left: zero would mean "at once" to it."""


class AsyncInternals(LeasedPool, AsyncConnectionPool[ACT]):
    """psycopg_pool's pool, with connects and returns as the rotation says."""

    _connector: AsyncConnector[ACT]
    _vetting: AsyncVetting[ACT]

    async def _getconn_vetted(self, timeout: float | None, conn: ACT | None) -> ACT:
        """Check out where a connection may not be what it seems, or more is to be done with it.

        Args:
            timeout: as `getconn` has it.
            conn: one that was checked out before there was a reason for care.
        """
        self._refuse_after_fork()
        rotation = self._rotation
        timeout = self.timeout if timeout is None else timeout
        deadline = monotonic() + timeout
        if not rotation.serving and not self.closed and not self._may_begin:
            count_refused(self)
            raise PoolTimeout("waiting does not help")
        try:
            while True:
                with suppress(UnfitConnection):
                    if conn is None:
                        conn = await super().getconn(max(deadline - monotonic(), AT_ONCE))
                    if await self._vetting.vet(self, conn, deadline - monotonic()):
                        break
                conn = None
                uncount_request(self)
        except PoolTimeout:
            # Of what was given, not of what the last round had left of it.
            raise PoolTimeout(f"couldn't get a connection after {timeout:.2f} sec") from None
        if rotation.policy.trace_borrowers:
            cast("Any", conn)._lease.borrowed = borrowed_here(monotonic())
        return conn

    async def _putconn_stale(self, conn: ACT) -> None:
        if self._abandoned:
            # It was borrowed when the process was forked.
            return
        rotation = self._rotation
        if not rotation.is_stale(conn):
            await self._putconn_as_it_is(conn)
            return
        check_borrowed(self, conn)
        rotation.stale_returned()
        spare = None if conn.closed else rotation.take_spare()
        if spare is None:
            await self._putconn_as_it_is(conn)
            rotation.look_again()
            return
        try:
            await replace_returned_async(self, conn, spare)
        finally:
            rotation.replaced(spare)

    async def _putconn_as_it_is(self, conn: ACT) -> None:
        try:
            await super().putconn(conn)
        except BaseException:
            finish_return_async(self, conn)
            raise

    def run_task(self, task: MaintenanceTask) -> None:
        """Run a task of psycopg_pool's; see `return_by_worker` for one kind of them."""
        if isinstance(task, ReturnConnection):
            return_by_worker_async(self, task)
        else:
            super().run_task(task)

    async def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Run a task of psycopg_pool's later; a connect when the rotation says so."""
        if isinstance(task, AddConnection):
            self._rotation.hold(AddConnection(self, growing=task.growing), monotonic())
        else:
            await super().schedule_task(task, delay)

    # -- psycopg_pool's private methods: no other is overridden --------------------------------

    async def _add_connection(
        self, attempt: AttemptWithBackoff | None, growing: bool = False
    ) -> None:
        if self._rotation.barred(monotonic()):
            self._rotation.hold(AddConnection(self, growing=growing), monotonic())
        else:
            # It never gives up.
            attempt = AttemptWithBackoff(timeout=math.inf)
            await super()._add_connection(attempt, growing)

    async def _connect(self, timeout: float | None = None) -> ACT:
        rotation = self._rotation
        opening = rotation.begin(monotonic())
        try:
            with self._connector.opening(opening):
                connection = await super()._connect(timeout)
        except Exception as error:
            # Without a failure of its own, it is something around the login.
            failure = opening.failure or clean_failure(error)
            rotation.failed_to_open(opening, failure, monotonic())
            if rotation.overview.misconfigured:
                await fail_waiting_async(self, PoolTimeout("waiting does not help"))
            raise
        finally:
            rotation.end(opening)
        rotation.succeeded(opening)
        return connection
