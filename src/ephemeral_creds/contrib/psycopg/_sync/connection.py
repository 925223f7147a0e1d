# Made from _async/connection.py by tools/make_sync.py: change that, then run "nox -s twins".
"""A connection without a pool, whose session the keeper counts."""

from __future__ import annotations

import sys
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import Row

from ephemeral_creds.contrib._login import ROLE_MISSING, may_lack_its_role, reject
from ephemeral_creds.contrib.psycopg.shared import SessionLease, share
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool._compat import Wakeup
from ephemeral_creds.pool._sync.session import current_user, login, valid_for
from ephemeral_creds.pool.login import (
    acting_as,
    check_parameters,
    clean_failure,
    explain_role,
    role_at_login,
)
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from psycopg import Cursor
    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import RowFactory

    from ephemeral_creds.contrib.psycopg.shared import SharedSessions
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.keeper.session import Session

__all__ = ["LeasedConnection", "connect"]

# Seconds for a query of ours.
_QUERY_TIMEOUT = 10.0


class LeasedConnection(Connection[Row]):
    """A `psycopg.Connection` that knows what it logged in with.

    The keeper counts its session until it is closed: its lease is not revoked before.
    """

    _lease: SessionLease | None = None

    @property
    def generation(self) -> int:
        """The generation of the credentials that it logged in with."""
        return 0 if self._lease is None else self._lease.generation

    def close(self) -> None:
        """Close the connection, and tell the keeper. See psycopg."""
        try:
            super().close()
        finally:
            if self._lease is not None:
                self._lease.end()

    def rollback(self) -> None:
        """Roll back. See psycopg.

        After an error 42501 or 42704, as without a role, it also asks whether the role still
        exists. If it does not, other credentials are fetched.
        """
        # Called while the error that led to it is being handled.
        error = sys.exception()
        failed = error is None and self.pgconn.transaction_status == TransactionStatus.INERROR
        super().rollback()
        if self._lease is not None and (failed or may_lack_its_role(error)) and not self.closed:
            _test_role(self, self._lease.session)


def _test_role(connection: Connection[Any], session: Session) -> None:
    try:
        current_user(connection, _QUERY_TIMEOUT)
    except psycopg.Error as error:
        if error.sqlstate in ROLE_MISSING:
            session.tested(alive=False)
    else:
        session.tested(alive=True)


def connect(
    keeper: Keeper | AsyncCredentialKeeper,
    conninfo: str = "",
    *,
    timeout: float = 30.0,
    session_role: str | None = None,
    autocommit: bool = False,
    prepare_threshold: int | None = 5,
    context: AdaptContext | None = None,
    row_factory: RowFactory[Row] | None = None,
    cursor_factory: type[Cursor[Row]] | None = None,
    **kwargs: ConnParam,
) -> LeasedConnection[Row]:
    """Connect with a keeper's credentials, as `psycopg.Connection.connect` does.

    If PostgreSQL refuses the credentials, it is tried again with others, provided that there are
    others within `timeout`.

    Args:
        keeper: where the credentials come from; it has to be started.
        conninfo: the connection string, without user and password.
        timeout: how long to wait for credentials, in seconds.
        session_role: the role that the session acts as, if it is not the one that logs in.
        autocommit: as psycopg has it.
        prepare_threshold: as psycopg has it.
        context: as psycopg has it.
        row_factory: as psycopg has it.
        cursor_factory: as psycopg has it.
        kwargs: more parameters of libpq's, without user and password.

    Raises:
        NoCredentials, AccessDenied: there were no credentials in time, as `CredentialKeeper.wait`
            raises it.
        ConfigurationError: a user or a password is given, or the session role does not come
            through.
        psycopg.OperationalError: PostgreSQL refuses the login, or does not answer. The exception
            does not lead to the password.
    """
    check_parameters(conninfo, kwargs)
    options = dict(kwargs) if session_role is None else acting_as(session_role, conninfo, kwargs)
    shared = share(keeper, make_conninfo(conninfo, **options))
    own = {
        "autocommit": autocommit,
        "prepare_threshold": prepare_threshold,
        "context": context,
        "row_factory": row_factory,
        "cursor_factory": cursor_factory,
    }
    try:
        connection, session = _log_in(shared, own, session_role, monotonic() + timeout)
    except BaseException:
        shared.leave()
        raise
    finalizer = weakref.finalize(connection, _closed, session, shared)
    finalizer.atexit = False
    connection._lease = SessionLease(session, finalizer)
    return connection


def _closed(session: Session, shared: SharedSessions) -> None:
    session.closed()
    shared.leave()


def _log_in(
    shared: SharedSessions, options: dict[str, Any], session_role: str | None, deadline: float
) -> tuple[LeasedConnection[Any], Session]:
    while True:
        session = shared.sessions.begin(max(deadline - monotonic(), 0.0))
        outcome = _log_in_once(shared, session, options, session_role)
        if not isinstance(outcome, ConnectFailure):
            return outcome, session
        if not outcome.refused or not _replaced(shared.keeper, session.generation, deadline):
            raise outcome.error


def _replaced(keeper: Keeper, generation: int, deadline: float) -> bool:
    """Wait for another generation than `generation`; tell whether it came in time."""
    wakeup = Wakeup()
    ignore = keeper.on_change(wakeup.wake)
    try:
        while True:
            seen, remaining = wakeup.count, deadline - monotonic()
            if keeper.generation != generation or remaining <= 0:
                return keeper.generation != generation
            wakeup.wait(seen, remaining)
    finally:
        ignore()


def _log_in_once(
    shared: SharedSessions, session: Session, options: dict[str, Any], session_role: str | None
) -> LeasedConnection[Any] | ConnectFailure:
    """Log in, and tell `session` what came of it."""
    outcome: LeasedConnection[Any] | ConnectFailure
    try:
        outcome = login(
            LeasedConnection.connect, shared.conninfo, options, session.grant, shared.diagnosis
        )
        if session_role is not None:
            outcome = _verify_session_role(outcome, session_role)
    except BaseException:
        session.rejected(LoginFailure.UNREACHABLE)
        raise
    if isinstance(outcome, ConnectFailure):
        reject(session, outcome)
        return outcome
    session.accepted()
    if session.wants_end:
        try:
            session.end_learned(valid_for(outcome, _QUERY_TIMEOUT))
        except BaseException as error:
            # No answer is no reason to do without the connection.
            if outcome.closed or not isinstance(error, psycopg.Error):
                outcome.close()
                session.closed()
                raise
    return outcome


def _verify_session_role(
    outcome: LeasedConnection[Any] | ConnectFailure, wanted: str
) -> LeasedConnection[Any] | ConnectFailure:
    if isinstance(outcome, ConnectFailure):
        return explain_role(wanted, outcome)
    try:
        role = current_user(outcome, _QUERY_TIMEOUT)
        if role == wanted:
            return outcome
        raise ConfigurationError(
            f"session_role={wanted!r}: the session acts as {role!r}. A proxy between here and "
            f"PostgreSQL seems to drop the startup parameter 'options': {role_at_login(wanted)}"
        )
    except BaseException as error:
        outcome.close()
        if isinstance(error, Exception):
            return clean_failure(error)
        raise
