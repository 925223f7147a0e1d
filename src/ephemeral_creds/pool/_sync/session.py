# Made from _async/session.py by tools/make_sync.py: change that, then run "nox -s twins".
"""One connection: its login, its class, and what PostgreSQL is asked about its role."""

from __future__ import annotations

import math
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row
from psycopg_pool import PoolClosed

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.pool._compat import closing
from ephemeral_creds.pool.ledger import LeaseInfo, generation_of
from ephemeral_creds.pool.login import clean_failure
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.role import CURRENT_USER, VALID_FOR, may_lack_its_role
from ephemeral_creds.pool.target import attempts, credentials_for
from ephemeral_creds.pool.time_limit import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from psycopg_pool.abc import CT

    from ephemeral_creds._values import Grant
    from ephemeral_creds.pool.diagnosis import Diagnosis
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["current_user", "derive", "login", "valid_for"]

T = TypeVar("T")

# How often a connection that waits for notifications is looked at.
_LISTEN_STEP = 1.0


def login(
    connect: Callable[..., T],
    conninfo: str,
    kwargs: Mapping[str, Any],
    grant: Grant,
    diagnosis: Diagnosis,
) -> T | ConnectFailure:
    """Connect with `grant`; a failure is returned, so that no frame with its password is raised."""
    if not grant.credentials.passwords:
        return _login_once(connect, conninfo, kwargs, grant, diagnosis)
    try:
        targets = attempts(conninfo, dict(kwargs), grant.credentials)
    except psycopg.Error as error:
        return clean_failure(error)
    failures: list[ConnectFailure] = []
    for target, others in targets:
        outcome = _login_once(connect, target, others, grant, diagnosis)
        if not isinstance(outcome, ConnectFailure):
            return outcome
        failures.append(outcome)
    # One server may refuse the token and another be down: that it is refused says what to do.
    return next((each for each in failures if each.refused or each.hopeless), failures[-1])


def _login_once(
    connect: Callable[..., T],
    conninfo: str,
    kwargs: Mapping[str, Any],
    grant: Grant,
    diagnosis: Diagnosis,
) -> T | ConnectFailure:
    """Connect, to one server if each takes a password of its own."""
    try:
        credentials = credentials_for(conninfo, kwargs, grant.credentials)
    except ConfigurationError as error:
        return clean_failure(error)
    try:
        return connect(
            conninfo, **kwargs, user=credentials.username, password=credentials.password.reveal()
        )
    except psycopg.Error as error:
        # Imported with the first one: it takes longer than all the rest of this module.
        from ephemeral_creds.pool.diagnosis import FailedLogin

        failure = clean_failure(error)
        failed = FailedLogin(error, conninfo, kwargs, credentials)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must lose its traceback
        return clean_failure(error)
    except BaseException as error:
        # Interrupted in psycopg, whose frames have the password.
        error.__traceback__ = None
        raise
    # libpq resolves names and starts a connect without asking whether it may wait.
    verdict = diagnosis.explain(failed, grant.generation)
    return failure.because(verdict)


def derive(
    base: type[CT],
    connect: Callable[[], Callable[[str, dict[str, Any]], CT] | None],
    rotation: Rotation[CT],
) -> tuple[type[Any], type[Any]]:
    """Derive the classes of the pool's own connections, and of those that others ask it for.

    Returns:
        Both; the first is a subclass of the second.
    """
    if rotation.policy.listening == "end":
        base = _listening_until_stale(base, rotation)

    class Unpooled(base):  # type: ignore[valid-type, misc]
        _lease: LeaseInfo | None = None

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> CT:
            method = connect()
            if method is None:
                raise PoolClosed("the pool is gone")
            return method(conninfo, kwargs)

        @classmethod
        def connect_directly(cls, conninfo: str, **kwargs: Any) -> CT:
            return cast("CT", super().connect(conninfo, **kwargs))

    class Leased(Unpooled):
        # Its presence tells psycopg that it was not forgotten, also before a pool has it.
        _pool: Any = None

        def rollback(self) -> None:
            # Called while the error that led to it is being handled: nothing has to be looked at
            # if there was none. psycopg_pool calls it later; the error may be any one then.
            error = sys.exception()
            failed = error is None and self.pgconn.transaction_status == TransactionStatus.INERROR
            if failed or may_lack_its_role(error):
                rotation.suspect_generation(generation_of(self))
            super().rollback()

        def close(self) -> None:
            pool, broken = self._pool, self.closed
            super().close()
            if broken and pool is not None and pool.close_returns:
                # psycopg's own does nothing then, and the pool would miss it permanently.
                pool.putconn(self)
                self._pool = None
            elif self.closed and (rotation.stopped or generation_of(self) < rotation.serving):
                rotation.look_again()

    for derived in (Leased, Unpooled):
        derived.__name__ = derived.__qualname__ = f"{derived.__name__}{base.__name__}"
    return Leased, Unpooled


def _listening_until_stale(base: type[CT], rotation: Rotation[CT]) -> type[Any]:
    """Derive a class that waits for notifications until its credentials have been replaced."""

    class Listening(base):  # type: ignore[valid-type, misc]
        def notifies(
            self, *, timeout: float | None = None, stop_after: int | None = None
        ) -> Generator[psycopg.Notify]:
            """Do what psycopg's own does.

            Raises:
                psycopg.OperationalError: newer credentials are in use.
            """
            end_at = math.inf if timeout is None else monotonic() + timeout
            count = 0
            while True:
                seconds = min(max(end_at - monotonic(), 0.0), _LISTEN_STEP)
                left = None if stop_after is None else stop_after - count
                waiting = super().notifies(timeout=seconds, stop_after=left)
                with closing(waiting) as notices:
                    for notice in notices:
                        yield notice
                        count += 1
                if (stop_after is not None and count >= stop_after) or monotonic() > end_at:
                    return
                if generation_of(self) < rotation.serving:
                    raise psycopg.OperationalError(
                        "the credentials of this connection have been replaced: listen on another"
                    )

    Listening.__name__ = base.__name__
    return Listening


def current_user(connection: CT, seconds: float) -> str:
    """Ask who we are, without leaving a transaction open."""
    role = _ask(connection, CURRENT_USER, seconds)
    # Where the database is SQL_ASCII, psycopg does not decode text.
    return role.decode(errors="backslashreplace") if isinstance(role, bytes) else str(role)


def valid_for(connection: CT, seconds: float) -> float | None:
    """Return for how many seconds more its role may log in; ``None`` for no limit.

    Raises:
        psycopg.Error: there is no answer; the connection can be used unless it is closed.
    """
    autocommit = connection.autocommit
    try:
        remaining = _ask(connection, VALID_FOR, seconds)
    except psycopg.Error:
        if not connection.closed:
            connection.set_autocommit(autocommit)
        raise
    return remaining if isinstance(remaining, float) else None


def _ask(connection: CT, query: LiteralString, seconds: float) -> object:
    """Return the one value that `query` brings in time, without leaving a transaction open."""
    autocommit = connection.autocommit
    if not autocommit:
        connection.set_autocommit(True)
    with TimeLimit(connection, seconds):
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(query)
            value: object = cursor.fetchone()
    # Not in a finally clause: after a failure the connection is discarded, and an error from
    # here would take the place of that failure, be it a cancellation.
    if not autocommit:
        connection.set_autocommit(False)
    return value
