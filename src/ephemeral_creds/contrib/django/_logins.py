"""Connections that are opened without a pool, and the sessions that they count as."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg

from ephemeral_creds.contrib._login import new_diagnosis, psycopg_failure, reject
from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.keeper.sessions import Sessions
from ephemeral_creds.pool._sync.session import current_user, valid_for
from ephemeral_creds.pool.errors import as_checkout_failed
from ephemeral_creds.pool.login import acting_as, clean_failure, explain_role, role_at_login
from ephemeral_creds.pool.reconnects import ConnectFailure
from ephemeral_creds.pool.remedies import advice
from ephemeral_creds.pool.target import credentials_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.session import Session

    Connection = psycopg.Connection[Any]

__all__ = ["Login", "Logins"]

# Seconds to wait for credentials, or for others where these are refused: psycopg_pool's default.
_PATIENCE = 30.0

# Seconds for a connect in the background, and for what is asked after a login.
_TIMEOUT = 10


class Login:
    """An open connection and the session that it counts as.

    A connection that is forgotten, as those of a thread that has ended are, counts no more either.
    """

    __slots__ = ("__weakref__", "_logins", "connection", "session")

    def __init__(self, logins: Logins, connection: Connection, session: Session) -> None:
        self._logins = logins
        self.connection = connection
        self.session = session
        weakref.finalize(connection, session.closed).atexit = False

    def verify(self) -> None:
        """Have all open sessions tested: see `Sessions.verify`."""
        self._logins.sessions.verify()

    def park(self) -> None:
        """Nothing uses it between here and `unpark`: it is closed when it is stale."""
        self._logins.park(self)

    def unpark(self) -> bool:
        """Use it again; returns whether it was left open."""
        return self._logins.unpark(self)

    def release(self) -> None:
        """Let go of the keeper; there is no other connection of its kind."""
        self._logins.sessions.close()


class Logins:
    """Opens connections to one database with the credentials in use, and counts them.

    Args:
        keeper: where the credentials come from.
        params: what to connect with; neither user nor password is in it.
        role: the role that each session acts as, if it is not the one that logs in.
    """

    def __init__(
        self, keeper: CredentialKeeper, params: Mapping[str, Any], role: str | None
    ) -> None:
        self._keeper = keeper
        self._params, self._role = params, role
        self._diagnosis = new_diagnosis()
        self._diagnosing, self._lock = threading.Lock(), threading.Lock()
        # Not held by this: the connection of a thread that has ended is to be closed.
        self._parked: weakref.WeakSet[Login] = weakref.WeakSet()
        self.sessions = Sessions(keeper, self._prove, on_change=self._changed)

    def open(self, params: Mapping[str, Any], role: str | None) -> Login:
        """Log in; where the credentials are refused, wait for others.

        Raises:
            psycopg.OperationalError: it was not possible; the message says why.
        """
        # The name of a test's database is known later than the alias.
        self._params, self._role = params, role
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                session = self.sessions.begin(max(deadline - monotonic(), 0.0))
            except EphemeralCredsError as error:
                raise as_checkout_failed(error, self._keeper.status()) from error.__cause__
            outcome = self._log_in(session, params)
            if not isinstance(outcome, ConnectFailure):
                return Login(self, outcome, session)
            overtaken = self._keeper.generation != session.generation
            if overtaken or (outcome.refused and self._others_came(session.generation, deadline)):
                continue
            raise _explained(outcome)

    def _others_came(self, generation: int, deadline: float) -> bool:
        """Wait until other credentials than those of `generation` are in use."""
        changed = threading.Event()
        forget = self._keeper.on_change(changed.set)
        try:
            while self._keeper.generation == generation:
                if not changed.wait(max(deadline - monotonic(), 0.0)):
                    return False
                changed.clear()
                with suppress(EphemeralCredsError):
                    self._keeper.require_running()
                    continue
                return False
        finally:
            forget()
        return True

    def _log_in(self, session: Session, params: Mapping[str, Any]) -> Connection | ConnectFailure:
        kwargs = dict(params) if self._role is None else acting_as(self._role, "", params)
        outcome = self._connect(session, kwargs)
        if self._role is not None:
            outcome = _as_role(outcome, self._role)
        if isinstance(outcome, ConnectFailure):
            reject(session, outcome)
            return outcome
        session.accepted()
        if session.wants_end:
            # No answer is no reason to do without the connection.
            with suppress(psycopg.Error):
                session.end_learned(valid_for(outcome, _TIMEOUT))
        return outcome

    def _connect(self, session: Session, kwargs: Mapping[str, Any]) -> Connection | ConnectFailure:
        """Connect; a failure is returned, so that no frame with the password is raised."""
        try:
            credentials = credentials_for("", kwargs, session.credentials)
            return psycopg.connect(
                user=credentials.username, password=credentials.password.reveal(), **kwargs
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must lose its traceback
            # One after the other: what is found is remembered, and the next one is in no doubt.
            with self._diagnosing:
                return psycopg_failure(error, session, self._diagnosis, "", kwargs)
        except BaseException as error:
            # Interrupted in psycopg, whose frames have the password.
            error.__traceback__ = None
            raise

    def _prove(self, session: Session) -> None:
        outcome = self._log_in(session, {"connect_timeout": _TIMEOUT, **self._params})
        if not isinstance(outcome, ConnectFailure):
            outcome.close()
        session.closed()

    # -- connections that nothing uses for the moment --------------------------------------

    def park(self, login: Login) -> None:
        """See `Login.park`."""
        with self._lock:
            self._parked.add(login)
        if login.session.is_stale:
            self._close_parked()

    def unpark(self, login: Login) -> bool:
        """See `Login.unpark`."""
        with self._lock:
            left = login in self._parked
            self._parked.discard(login)
        return left

    def _changed(self) -> None:
        # The keeper's thread has no time for it.
        if self._parked:
            closing = threading.Thread(
                target=self._close_parked, name=f"{self._keeper.name}-parked", daemon=True
            )
            # Without a further thread they are closed when they are used again.
            with suppress(RuntimeError):
                closing.start()

    def _close_parked(self) -> None:
        with self._lock:
            stale = [parked for parked in self._parked if parked.session.is_stale]
            self._parked.difference_update(stale)
        for parked in stale:
            parked.connection.close()
            parked.session.closed()


def _explained(failure: ConnectFailure) -> Exception:
    if failure.reason is None or isinstance(failure.error, ConfigurationError):
        return failure.error
    return failure.with_hint(advice(failure.reason, failure.sqlstate, failure.parameter)).error


def _as_role(outcome: Connection | ConnectFailure, wanted: str) -> Connection | ConnectFailure:
    """Check that the session acts as the role that it is to act as: a proxy may drop the option."""
    if isinstance(outcome, ConnectFailure):
        return explain_role(wanted, outcome)
    try:
        role = current_user(outcome, _TIMEOUT)
    except psycopg.Error as error:
        outcome.close()
        return clean_failure(error)
    if role == wanted:
        return outcome
    outcome.close()
    return clean_failure(
        ConfigurationError(
            f"OPTIONS['assume_role'] is {wanted!r}, but the session acts as {role!r}. A proxy "
            "between here and PostgreSQL seems to drop the startup parameter 'options': "
            f"{role_at_login(wanted)}"
        )
    )
