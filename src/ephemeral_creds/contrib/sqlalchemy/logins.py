"""The logins of one engine in one process: a consumer of its keeper."""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn

from ephemeral_creds.contrib._login import (
    CURRENT_USER,
    ROLE_MISSING,
    VALID_FOR,
    asyncpg_credentials,
    new_diagnosis,
    reject,
)
from ephemeral_creds.contrib.sqlalchemy.failures import (
    as_driver_error,
    explain_failure,
    sqlstate_of,
)
from ephemeral_creds.exceptions import (
    ConfigurationError,
    CredentialsExpired,
    EphemeralCredsError,
    NotReady,
)
from ephemeral_creds.keeper.loop import in_thread
from ephemeral_creds.keeper.sessions import Sessions
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.login import acting_as, explain_role, role_at_login
from ephemeral_creds.pool.policy import RotationPolicy
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.target import credentials_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from ephemeral_creds._values import Credentials
    from ephemeral_creds.contrib.sqlalchemy.keepers import KeeperSource
    from ephemeral_creds.keeper.session import Session

__all__ = ["Login", "Logins"]

T = TypeVar("T")

# A replica may not know the role yet, and a server that refuses it is not hammered.
_RETRY = 1.0

_CONNECT_TIMEOUT = RotationPolicy().connect_timeout


@dataclass(slots=True)
class Login:
    """What is known of an open connection.

    Attributes:
        owner: what opened it.
        session: it, as the keeper counts it.
        fresh: whether it has not been checked out yet.
    """

    owner: Logins
    session: Session
    fresh: bool = True


class Logins:
    """Opens connections with a keeper's credentials, and counts them.

    Its methods are called where SQLAlchemy calls the driver: with an async dialect in a greenlet
    of the event loop.

    Args:
        dialect: what opens connections.
        source: where the keeper comes from.
        session_role: the role that sessions act as, if it is not the one that logs in.
        timeout: seconds to wait for credentials that work.
        known: where to note what is opened, by the driver's connection.
        on_change: called, from the keeper's thread, when sessions may have become stale.
    """

    def __init__(
        self,
        dialect: Dialect,
        source: KeeperSource,
        session_role: str | None,
        timeout: float,
        known: weakref.WeakKeyDictionary[Any, Login],
        on_change: Callable[[], None],
    ) -> None:
        self._dialect: Any = dialect
        self._source = source
        self._session_role = session_role
        self._timeout = timeout
        self._on_change = on_change
        self._changed = threading.Condition()
        self._arguments: tuple[Sequence[Any], Mapping[str, Any]] | None = None
        self._ending = False
        self._diagnosis = new_diagnosis()
        self._known = known
        self.sessions = Sessions(source.obtain(), self._prove, on_change=self._announce)

    def open(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> DBAPIConnection:
        """Log in with the credentials in use; wait for others where they are refused.

        Args:
            args: what the driver is called with.
            kwargs: so, by name.

        Raises:
            dbapi.OperationalError: there is no connection; an error of this library is its cause.
        """
        self._arguments = tuple(args), dict(kwargs)
        return self._open(*self._arguments, self._timeout)

    def open_another(self) -> DBAPIConnection:
        """Open one as the last was, and wait for no other credentials; raises what `open` does."""
        assert self._arguments is not None, "nothing was opened yet"  # noqa: S101
        return self._open(*self._arguments, 0.0)

    def _open(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float
    ) -> DBAPIConnection:
        deadline = monotonic() + timeout
        while True:
            session = self._begin(max(deadline - monotonic(), 0.0))
            outcome = self._log_in(session, args, kwargs)
            if not isinstance(outcome, ConnectFailure):
                return outcome
            remaining = deadline - monotonic()
            if not outcome.refused or remaining <= 0.0:
                raise as_driver_error(self._dialect, outcome.error)
            self._call(self._wait_for_others, session.generation, min(remaining, _RETRY))

    def test(self, login: Login, connection: DBAPIConnection) -> bool:
        """Tell whether the role of a connection exists and the server answers."""
        try:
            self._ask(connection, CURRENT_USER)
        except Exception as error:  # noqa: BLE001 - an OSError, too: the connection cannot be used
            # Any other error says nothing about the role.
            if sqlstate_of(error) in ROLE_MISSING:
                login.session.tested(alive=False)
            return False
        login.session.tested(alive=True)
        return True

    def has_news(self, connection: DBAPIConnection) -> bool:
        """Tell whether the server has sent what nothing asked for, or has closed the connection.

        It does so when it ends a session, for example with its role.
        """
        driver_connection = self._dialect.get_driver_connection(connection)
        if self._dialect.driver == "asyncpg":
            return bool(driver_connection.is_closed())
        return bool(driver_connection.closed) or _is_readable(driver_connection.fileno())

    def close(self, login: Login, connection: DBAPIConnection) -> None:
        """Close a connection that SQLAlchemy is about to close.

        Afterwards nothing tells that it is closed, and before that no lease may be revoked. What it
        does itself then changes nothing.
        """
        # It closes it in its own way, and logs what that raises.
        with contextlib.suppress(Exception):
            self._dialect.do_terminate(connection)
        self._close(login.session)

    def end(self) -> None:
        """Let go of the keeper as soon as the last connection is closed."""
        self._ending = True
        self._leave_when_empty()

    # -- one login -------------------------------------------------------------------------

    def _begin(self, timeout: float) -> Session:
        """Return a session to log in with; without credentials, raise an error of the driver's."""
        try:
            try:
                return self.sessions.begin(0.0)
            except (NotReady, CredentialsExpired):
                if timeout <= 0.0:
                    raise
            return self._call(self.sessions.begin, timeout)
        except EphemeralCredsError as error:
            failure = error
        raise as_driver_error(self._dialect, failure)

    def _log_in(
        self, session: Session, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> DBAPIConnection | ConnectFailure:
        """Log in; a failure is returned, so that no frame with the password is raised."""
        given = dict(kwargs)
        try:
            credentials = self._credentials_for(session, args, given)
            if self._session_role is not None:
                given = self._acting_as(self._session_role, args, given)
            connection: DBAPIConnection = self._dialect.connect(
                *args,
                **given,
                user=credentials.username,
                password=credentials.password.reveal(),
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must lose its traceback
            failed = error
        except BaseException as error:
            session.rejected(LoginFailure.UNREACHABLE)
            error.__traceback__ = None
            raise
        else:
            return self._accept(session, connection)
        try:
            # Not while it is handled: it would be the context of an interruption.
            failure = self._call(
                *(explain_failure, self._dialect, failed, session, self._diagnosis, args, given)
            )
        except BaseException:
            session.rejected(LoginFailure.UNREACHABLE)
            raise
        if self._session_role is not None:
            failure = explain_role(self._session_role, failure)
        reject(session, failure)
        return failure

    def _credentials_for(
        self, session: Session, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Credentials:
        """Return what to log in with; raise `ConfigurationError` if it must not be sent there."""
        if self._dialect.driver == "asyncpg":
            return asyncpg_credentials(args, kwargs, session.credentials)
        return credentials_for(args[0] if args else "", kwargs, session.credentials)

    def _acting_as(
        self, role: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return `kwargs` with the startup parameter that has the session act as `role`."""
        if self._dialect.driver == "asyncpg":
            settings = {**kwargs.get("server_settings", {}), "role": role}
            return {**kwargs, "server_settings": settings}
        return acting_as(role, args[0] if args else "", kwargs)

    def _accept(
        self, session: Session, connection: DBAPIConnection
    ) -> DBAPIConnection | ConnectFailure:
        session.accepted()
        driver_connection = self._dialect.get_driver_connection(connection)
        # SQLAlchemy forgets some without a word: those that a listener has refused, for example.
        weakref.finalize(driver_connection, self._close, session).atexit = False
        self._known[driver_connection] = Login(self, session)
        try:
            error = self._questions(session, connection)
        except self._dialect.loaded_dbapi.Error as failure:
            error = failure
        except BaseException:
            self._discard(session, connection)
            raise
        if error is None:
            return connection
        self._discard(session, connection)
        return ConnectFailure(error, reason=None)

    def _questions(self, session: Session, connection: DBAPIConnection) -> Exception | None:
        """Ask what has to be known of a new session; return what is wrong with it."""
        role = self._session_role
        if role is not None and (found := self._ask(connection, CURRENT_USER)) != role:
            return ConfigurationError(
                f"session_role={role!r}: the session acts as {found!r}. A proxy between here and "
                f"PostgreSQL seems to drop the startup parameter: {role_at_login(role)}"
            )
        if session.wants_end:
            try:
                remaining = self._ask(connection, VALID_FOR)
            except self._dialect.loaded_dbapi.Error:
                # No answer is no reason to do without the connection; one that broke fails here.
                connection.rollback()
            else:
                session.end_learned(remaining if isinstance(remaining, float) else None)
        return None

    def _ask(self, connection: DBAPIConnection, query: str) -> object:
        """Return the one value that `query` brings, and leave no transaction open."""
        cursor = connection.cursor()
        try:
            cursor.execute(query)
            row = cursor.fetchone()
        finally:
            cursor.close()
        connection.rollback()
        return None if row is None else row[0]

    def _discard(self, session: Session, connection: DBAPIConnection) -> None:
        try:
            self._dialect.do_terminate(connection)
        finally:
            self._close(session)

    # -- what the keeper asks for ----------------------------------------------------------

    def _prove(self, session: Session) -> None:
        """Log in once with new credentials; see `Sessions`. In a thread of its own."""
        if self._dialect.is_async:
            # Not in the engine's loop, which may be busy, or closed.
            asyncio.run(greenlet_spawn(self._prove_here, session))
        else:
            self._prove_here(session)

    def _prove_here(self, session: Session) -> None:
        """Log in and out."""
        if self._arguments is None:
            # As with the first credentials, it turns out with the first connection.
            session.accepted()
            session.closed()
            return
        args, kwargs = self._arguments
        if self._dialect.driver != "asyncpg":
            kwargs = {"connect_timeout": round(_CONNECT_TIMEOUT), **kwargs}
        outcome = self._log_in(session, args, kwargs)
        if not isinstance(outcome, ConnectFailure):
            self._discard(session, outcome)

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._on_change()

    # -- waiting and ending ----------------------------------------------------------------

    def _wait_for_others(self, generation: int, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.sessions.serving != generation, timeout)

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Call what may block, without blocking the event loop."""
        if self._dialect.is_async:
            return await_only(in_thread(function, *args))
        return function(*args)

    def _close(self, session: Session) -> None:
        session.closed()
        self._leave_when_empty()

    def _leave_when_empty(self) -> None:
        if self._ending and not self.sessions.open:
            self.sessions.close()
            self._source.release()


def _is_readable(descriptor: int) -> bool:
    # Without poll(), on Windows, it turns out with the next query.
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
