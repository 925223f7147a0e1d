# Made from _async/internals.py by tools/make_sync.py: change that, then run "nox -s twins".
"""What the pools do inside psycopg_pool: when to connect, what to lend, what to take back."""

from __future__ import annotations

import math
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
from psycopg_pool.abc import CT
from psycopg_pool.base import AttemptWithBackoff
from psycopg_pool.pool import AddConnection, MaintenanceTask, ReturnConnection

from ephemeral_creds.pool._sync.session import current_user, valid_for
from ephemeral_creds.pool.base import LeasedPool, borrowed_here
from ephemeral_creds.pool.errors import ConnectFailed, UnfitConnection
from ephemeral_creds.pool.ledger import generation_of
from ephemeral_creds.pool.login import clean_failure, said_by
from ephemeral_creds.pool.psycopg_pool_quirks import (
    AT_ONCE,
    check_borrowed,
    close_for_good,
    count_refused,
    discard,
    fail_waiting,
    finish_return,
    replace_returned,
    return_by_worker,
    uncount_request,
)
from ephemeral_creds.pool.role import ROLE_MISSING, may_lack_its_role

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg_pool.abc import ConnectionCB

    from ephemeral_creds.pool._sync.connector import Connector

__all__ = ["Internals"]

# A server that is well answers within this, whatever is left of a checkout.
_LEAST_PATIENCE = 0.2


class Internals(LeasedPool, ConnectionPool[CT]):
    """psycopg_pool's pool, with connects and returns as the rotation says."""

    _connector: Connector[CT]
    _check_error: str | None
    _now: Callable[[], float]

    def _getconn_vetted(self, timeout: float | None, conn: CT | None) -> CT:
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
                        conn = self._take(deadline)
                    if self._vet(conn, deadline - monotonic()):
                        break
                conn = None
                uncount_request(self)
        except PoolTimeout:
            # Of all rounds, and not of what the last one had left.
            waited = min(monotonic() - deadline + timeout, timeout)
            raise PoolTimeout(f"couldn't get a connection after {waited:.2f} sec") from None
        if rotation.policy.trace_borrowers:
            cast("Any", conn)._lease.borrowed = borrowed_here(monotonic())
        return conn

    def _take(self, deadline: float) -> CT:
        """Check out as psycopg_pool does, until the instant `deadline`."""
        return super().getconn(max(deadline - monotonic(), AT_ONCE))

    def _discard(self, conn: CT) -> None:
        """Close a connection that was checked out and cannot be used."""
        discard(self, conn)

    # -- testing what is lent --------------------------------------------------------------

    def _vet(self, connection: CT, timeout: float) -> bool:
        """Test a connection if it is suspect, for `timeout` seconds; one that fails is replaced.

        Returns:
            Whether it may be used.
        """
        rotation, generation = self._rotation, generation_of(connection)
        rotation.suspect_expired(self._now())
        if not rotation.is_suspect(generation):
            return True
        alive = False
        try:
            # An error says nothing about the role.
            with suppress(psycopg.Error):
                alive = self._is_alive(connection, timeout)
                rotation.tested(generation, alive=alive)
        finally:
            # If it was interrupted, it may be in the middle of the query.
            if not alive:
                self._discard(connection)
        return alive

    def _weak_check(self, check: ConnectionCB[CT]) -> ConnectionCB[CT]:
        """Return what psycopg_pool is to call as ``check``.

        The pool has it, so it must not have the pool: one that is forgotten is to end at once.
        """
        run = weakref.WeakMethod(self._run_check)

        def call(connection: CT) -> None:
            method = run()
            if method is None:
                raise PoolClosed("the pool is gone")
            method(check, connection)

        return call

    def _run_check(self, check: ConnectionCB[CT], connection: CT) -> None:
        """Have the user's function look at a connection that psycopg_pool is about to lend."""
        try:
            check(connection)
        except Exception as error:
            self._check_error = said_by(error)
            if self._may_stay(connection, error):
                raise
            close_for_good(connection)
            raise UnfitConnection from error
        self._check_error = None

    def _may_stay(self, connection: CT, error: Exception) -> bool:
        """Tell whether a check failed for another reason than the generation of `connection`."""
        rotation, generation = self._rotation, generation_of(connection)
        if generation < rotation.serving:
            return False
        if may_lack_its_role(error):
            rotation.suspect_generation(generation)
        if not rotation.is_suspect(generation):
            return True
        try:
            connection.rollback()
            alive = self._is_alive(connection, math.inf)
        except psycopg.Error:
            return False
        rotation.tested(generation, alive=alive)
        return alive

    def _is_alive(self, connection: CT, timeout: float) -> bool:
        """Tell whether the role that `connection` logged in as still exists.

        An empty query, which psycopg_pool's own check sends, would not: a session outlives its
        role, and only what looks the role up fails.

        Raises:
            psycopg.Error: there is no answer, or it says nothing about the role.
        """
        seconds = min(max(timeout, _LEAST_PATIENCE), self._rotation.policy.connect_timeout)
        try:
            current_user(connection, seconds)
        except psycopg.Error as error:
            if error.sqlstate in ROLE_MISSING:
                return False
            raise
        generation = generation_of(connection)
        if self._rotation.wants_valid_until(generation):
            self._ask_valid_until(connection, generation, seconds)
        return True

    def _ask_valid_until(self, connection: CT, generation: int, seconds: float) -> None:
        """Ask whether its role may log in no more, although it exists."""
        try:
            remaining = valid_for(connection, seconds)
        except psycopg.Error:
            if connection.closed:
                raise
            remaining = None
        self._rotation.valid_until_learned(generation, remaining, self._now())

    # -- taking back -----------------------------------------------------------------------

    def _putconn_stale(self, conn: CT) -> None:
        if self._abandoned:
            # It was borrowed when the process was forked.
            return
        rotation = self._rotation
        if not rotation.is_stale(conn):
            self._putconn_as_it_is(conn)
            return
        check_borrowed(self, conn)
        rotation.stale_returned()
        spare = None if conn.closed else rotation.take_spare()
        if spare is None:
            self._putconn_as_it_is(conn)
            rotation.look_again()
            return
        try:
            replace_returned(self, conn, spare)
        finally:
            rotation.replaced(spare)

    def _putconn_as_it_is(self, conn: CT) -> None:
        try:
            super().putconn(conn)
        except BaseException:
            finish_return(self, conn)
            raise

    # -- connecting ------------------------------------------------------------------------

    def run_task(self, task: MaintenanceTask) -> None:
        """Run a task of psycopg_pool's; see `return_by_worker` for one kind of them."""
        if isinstance(task, ReturnConnection):
            return_by_worker(self, task)
        else:
            super().run_task(task)

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Run a task of psycopg_pool's later; a connect when the rotation says so."""
        if isinstance(task, AddConnection):
            self._rotation.hold(AddConnection(self, growing=task.growing), monotonic())
        else:
            super().schedule_task(task, delay)

    # psycopg_pool's private methods: no other is overridden.

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        if self._rotation.barred(monotonic()):
            self._rotation.hold(AddConnection(self, growing=growing), monotonic())
        else:
            # It never gives up.
            attempt = AttemptWithBackoff(timeout=math.inf)
            super()._add_connection(attempt, growing)

    def _connect(self, timeout: float | None = None) -> CT:
        rotation = self._rotation
        opening = rotation.begin(monotonic())
        try:
            with self._connector.opening(opening):
                connection = super()._connect(timeout)
        except Exception as error:
            # Without a failure of its own, it is something around the login.
            failure = opening.failure or clean_failure(error)
            rotation.failed_to_open(opening, failure, monotonic())
            if timeout is None:
                if rotation.overview.misconfigured:
                    fail_waiting(self, PoolTimeout("waiting does not help"))
                raise
        else:
            rotation.succeeded(opening)
            return connection
        finally:
            rotation.end(opening)
        # It is a client's, which holds the pool's lock.
        raise ConnectFailed(failure)
