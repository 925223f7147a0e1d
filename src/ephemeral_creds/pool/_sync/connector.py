# Made from _async/connector.py by tools/make_sync.py: change that, then run "nox -s twins".
"""Opening leased connections, for psycopg_pool's workers and ahead of them."""

from __future__ import annotations

import math
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, cast

import psycopg
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed
from psycopg_pool.abc import CT

from ephemeral_creds.exceptions import (
    ConfigurationError,
    CredentialsExpired,
    EphemeralCredsError,
    NotReady,
)
from ephemeral_creds.pool._compat import resolved
from ephemeral_creds.pool._sync.session import current_user, derive, login, valid_for
from ephemeral_creds.pool.diagnosis import Diagnosis
from ephemeral_creds.pool.errors import as_checkout_failed
from ephemeral_creds.pool.ledger import LeaseInfo
from ephemeral_creds.pool.login import (
    acting_as,
    check_parameters,
    clean_failure,
    explain_role,
    role_at_login,
)
from ephemeral_creds.pool.psycopg_pool_quirks import close_for_good, count_connect, set_expiry
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg_pool import ConnectionPool
    from psycopg_pool.abc import ConnectionCB

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool._compat import Wakeup
    from ephemeral_creds.pool.ledger import Opening
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["Connector"]

# What psycopg_pool is opening in this thread or task.
_OPENING: ContextVar[Opening[Any] | None] = ContextVar("ephemeral_creds_opening", default=None)


class Connector(Generic[CT]):
    """Opens connections with the keeper's credentials and writes down their generation.

    Args:
        pool: whose ``conninfo`` and ``kwargs`` they are, neither with user or password.
        base: the user's connection class.
        configure: the user's function for new connections, if any.
        keeper: where the credentials come from.
        rotation: the pool's state.
        timeout: the connect timeout, in seconds, of connections opened ahead.
        session_role: the role that every session acts as, if not the one it logs in as.
        wakeup: what wakes it when there are new credentials, or none, and when the pool is
            closed.

    Attributes:
        on_connect: called with the duration of each successful login, in seconds.
    """

    def __init__(
        self,
        pool: ConnectionPool[Any],
        base: type[CT],
        configure: ConnectionCB[CT] | None,
        keeper: Keeper,
        rotation: Rotation[CT],
        timeout: float,
        session_role: str | None,
        wakeup: Wakeup,
    ) -> None:
        self._keeper = keeper
        self._rotation = rotation
        self._timeout = timeout
        self._session_role = session_role
        self._diagnosis = Diagnosis(timeout, lambda: rotation.stopped)
        self._user_configure = configure
        self.on_connect: list[Callable[[float], None]] = []
        self._wakeup = wakeup
        self._pool = weakref.ref(pool)
        leased, unpooled = derive(base, weakref.WeakMethod(self.connect), rotation)
        self._connect, self._connect_unpooled = leased.connect_directly, unpooled.connect_directly
        self.connection_class: type[CT] = unpooled

    @property
    def configure(self) -> Callable[[CT], None] | None:
        """What psycopg_pool is to call for a new connection, if there is anything to call."""
        return self._configure_for_pool if self._user_configure is not None else None

    def credentials(self, timeout: float) -> Grant:
        """Do what `Keeper.wait` does, and raise what that does; at once if the pool is closed."""
        deadline = monotonic() + timeout
        while True:
            seen = self._wakeup.count
            remaining = deadline - monotonic()
            try:
                return self._keeper.wait(0.0)
            except (NotReady, CredentialsExpired):
                if remaining <= 0 or self._rotation.stopped:
                    raise
            self._wakeup.wait(seen, remaining if remaining < math.inf else None)

    def wait_while_refused(self, deadline: float) -> None:
        """Wait until the instant `deadline` while the last credentials were refused or expired.

        Others end that at once; the same are worth a try from time to time.
        """
        while not self._rotation.stopped:
            seen, now = self._wakeup.count, monotonic()
            until = min(self._rotation.refused_until(), deadline)
            if until <= now:
                break
            self._wakeup.wait(seen, until - now)

    @contextmanager
    def opening(self, opening: Opening[CT]) -> Iterator[None]:
        """psycopg_pool opens a connection in the block."""
        token = _OPENING.set(opening)
        try:
            yield
        finally:
            _OPENING.reset(token)

    def connect(self, conninfo: str, kwargs: dict[str, Any]) -> CT:
        """Do what the ``connect`` of the pool's ``connection_class`` does.

        Anyone may call it. A caller other than the pool gets a connection as it asked for, with the
        credentials in use, that the pool knows nothing of.
        """
        opening = _OPENING.get()
        check_parameters(conninfo, kwargs)
        if opening is not None and opening.claim():
            outcome = self._connect_for_pool(opening, conninfo, kwargs)
        else:
            try:
                grant = self.credentials(self._timeout)
            except EphemeralCredsError as error:
                raise as_checkout_failed(error, self._keeper.status()) from error.__cause__
            outcome = self._session(self._connect_unpooled, grant, conninfo, kwargs)
            if not isinstance(outcome, ConnectFailure):
                cast("Any", outcome)._lease = LeaseInfo(grant.generation)
        if isinstance(outcome, ConnectFailure):
            raise outcome.error
        return outcome

    def _connect_for_pool(
        self, opening: Opening[CT], conninfo: str, kwargs: dict[str, Any]
    ) -> CT | ConnectFailure:
        while True:
            if self._rotation.serving or self._rotation.stopped:
                grant = self._keeper.current()
            else:
                # Nothing has been lent out yet, so that nothing waits behind this worker.
                grant = self.credentials(math.inf)
            if self._rotation.log_in(opening, grant.generation):
                break
        outcome = self._log_in(opening, grant, conninfo, kwargs)
        if isinstance(outcome, ConnectFailure):
            opening.failure = outcome
        return outcome

    def preconnect(self, grant: Grant, opening: Opening[CT]) -> CT | ConnectFailure:
        """Open a connection that is ready for use, without psycopg_pool."""
        pool = self._pool()
        if pool is None:
            return clean_failure(PoolClosed("the pool is gone"))
        began = monotonic()
        outcome = self._preconnect(pool, grant, opening)
        failed = isinstance(outcome, ConnectFailure)
        if not failed:
            set_expiry(pool, outcome)
        count_connect(pool, monotonic() - began, failed=failed)
        return outcome

    def _preconnect(
        self, pool: ConnectionPool[Any], grant: Grant, opening: Opening[CT]
    ) -> CT | ConnectFailure:
        try:
            text: str = resolved(pool.conninfo) or ""
            options: dict[str, Any] = dict(resolved(pool.kwargs) or {})
            check_parameters(text, options)
            given = conninfo_to_dict(text) | options
            options["connect_timeout"] = given.get("connect_timeout", math.ceil(self._timeout))
        except Exception as error:  # noqa: BLE001 - a callable of the user's
            return clean_failure(error)
        outcome = self._log_in(opening, grant, text, options)
        if isinstance(outcome, ConnectFailure):
            return outcome
        try:
            self._configured(outcome)
        except BaseException as error:  # a function of the user's; or an interruption
            outcome.close()
            if isinstance(error, Exception):
                return clean_failure(error)
            raise
        return outcome

    def _log_in(
        self, opening: Opening[CT], grant: Grant, conninfo: str, kwargs: dict[str, Any]
    ) -> CT | ConnectFailure:
        began = monotonic()
        outcome = self._session(self._connect, grant, conninfo, kwargs)
        if not isinstance(outcome, ConnectFailure) and self._rotation.claim_question(grant):
            outcome = self._query_expiry(outcome, grant)
        if not isinstance(outcome, ConnectFailure):
            cast("Any", outcome)._lease = LeaseInfo(grant.generation)
            self._rotation.logged_in(opening, outcome)
            for callback in self.on_connect:
                callback(monotonic() - began)
        return outcome

    def _session(
        self, connect: Callable[..., CT], grant: Grant, conninfo: str, kwargs: dict[str, Any]
    ) -> CT | ConnectFailure:
        """Log in, as the session role if there is one."""
        role = self._session_role
        if role is None:
            return login(connect, conninfo, kwargs, grant, self._diagnosis)
        kwargs = acting_as(role, conninfo, kwargs)
        outcome = login(connect, conninfo, kwargs, grant, self._diagnosis)
        return self._verify_session_role(outcome, role)

    def _verify_session_role(
        self, outcome: CT | ConnectFailure, wanted: str
    ) -> CT | ConnectFailure:
        """Check that the session acts as the session role: a proxy may drop the option."""
        if isinstance(outcome, ConnectFailure):
            return explain_role(wanted, outcome)
        try:
            role = current_user(outcome, self._timeout)
            if role == wanted:
                return outcome
            raise ConfigurationError(
                f"session_role={wanted!r}: the session acts as {role!r}. A proxy "
                "between here and PostgreSQL seems to drop the startup parameter 'options': "
                f"{role_at_login(wanted)}"
            )
        except BaseException as error:
            outcome.close()
            if isinstance(error, Exception):
                return clean_failure(error)
            raise

    def _query_expiry(self, connection: CT, grant: Grant) -> CT | ConnectFailure:
        """Ask until when the login works; no answer is no reason to do without the connection."""
        try:
            remaining = valid_for(connection, self._timeout)
        except psycopg.Error as error:
            return clean_failure(error) if connection.closed else connection
        except BaseException:
            connection.close()
            raise
        self._rotation.end_learned(grant.generation, remaining)
        return connection

    def _configure_for_pool(self, connection: CT) -> None:
        if (opening := _OPENING.get()) is not None:
            opening.configuring_since = monotonic()
        try:
            self._configured(connection)
        except BaseException:
            # psycopg_pool counts this as a failed connect, but leaves the connection open.
            close_for_good(connection)
            raise

    def _configured(self, connection: CT) -> None:
        if self._user_configure is None:
            return
        self._user_configure(connection)
        if (status := connection.pgconn.transaction_status) != TransactionStatus.IDLE:
            raise ProgrammingError(
                f"connection left in status {TransactionStatus(status).name} by configure function "
                f"{self._user_configure}: discarded"
            )
