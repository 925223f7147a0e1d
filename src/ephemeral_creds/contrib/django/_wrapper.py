"""What the backends add to Django's own."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.utils.asyncio import async_unsafe
from psycopg.pq import TransactionStatus

from ephemeral_creds.contrib._login import CURRENT_USER, ROLE_MISSING
from ephemeral_creds.contrib.django._checks import OURS, DatabaseValidation, errors
from ephemeral_creds.contrib.django._client import DatabaseClient
from ephemeral_creds.contrib.django._driver import SUSPICIOUS, Driver, ErrorWrapper, check_role
from ephemeral_creds.contrib.django._logins import Logins
from ephemeral_creds.contrib.django._process import process
from ephemeral_creds.exceptions import ConfigurationError, NoCredentials
from ephemeral_creds.pool._sync.pool import RotatingConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ephemeral_creds._values import Credentials
    from ephemeral_creds.contrib.django._logins import Login
    from ephemeral_creds.keeper.keeper import CredentialKeeper

    class _DjangoWrapper:
        """What is used of Django's `DatabaseWrapper`, which has no types."""

        alias: str
        settings_dict: dict[str, Any]
        connection: Any
        in_atomic_block: bool
        autocommit: bool
        close_at: float | None

        def close(self) -> None: ...
        def set_autocommit(self, autocommit: bool) -> None: ...
        def get_autocommit(self) -> bool: ...
        def get_connection_params(self) -> dict[str, Any]: ...
        def get_new_connection(self, conn_params: Mapping[str, Any]) -> Any: ...
        def init_connection_state(self) -> None: ...
        def create_cursor(self, name: str | None = None) -> Any: ...
        def ensure_connection(self) -> None: ...
        def close_if_unusable_or_obsolete(self) -> None: ...
        def _close(self) -> None: ...
        def _configure_connection(self, connection: Any) -> bool: ...
        def _configure_timezone(self, connection: Any) -> bool: ...

else:
    _DjangoWrapper = object

__all__ = ["RotatingWrapper"]

# Seconds between two looks at a connection for the same reason, where the first did not settle it.
_LOOK_AGAIN = 1.0

# What would be lost with the session: advisory locks, temporary tables and LISTEN.
_SESSION_STATE = """\
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks
               WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())
    OR EXISTS (SELECT FROM pg_catalog.pg_class
               WHERE relnamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"""


class RotatingWrapper(_DjangoWrapper):
    """Has the connections of one of Django's backends log in with credentials that rotate.

    Whether newer credentials are in use is looked up in memory at `ensure_connection`, before
    each query: then, or when a request begins or ends, the connection is replaced. It is not
    while a transaction or a cursor is open, nor, within a request, while the session has what
    would be lost with it.
    """

    client_class = DatabaseClient
    validation_class = DatabaseValidation
    _connection_pools = process.pools

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.Database = Driver(self)
        self._login: Login | None = None
        self._is_parked = False
        self._process = process.number
        self._look_at = 0.0
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()

    @cached_property
    def wrap_database_errors(self) -> Any:
        """See Django."""
        return ErrorWrapper(self)

    def copy(self, alias: str | None = None) -> Any:
        """Return a copy of this connection; a provider in its options is the same one."""
        options = dict(self.settings_dict["OPTIONS"])
        return type(self)(
            {**self.settings_dict, "OPTIONS": options}, self.alias if alias is None else alias
        )

    # -- credentials -----------------------------------------------------------------------

    @property
    def keeper(self) -> CredentialKeeper:
        """The keeper of its credentials, which all connections of the process share."""
        self._refuse_wrong_settings()
        try:
            return process.keeper(self.settings_dict["OPTIONS"]["credentials"], self.alias)
        except ConfigurationError as error:
            raise ImproperlyConfigured(f"settings.DATABASES[{self.alias!r}]: {error}") from None

    def _refuse_wrong_settings(self) -> None:
        for wrong in errors(self.settings_dict, self.alias):
            raise ImproperlyConfigured(f"{wrong.msg} {wrong.hint} ({wrong.id})")

    @property
    def _role(self) -> str | None:
        return self.settings_dict["OPTIONS"].get("assume_role") or None

    def verify(self) -> None:
        """Have all connections tested before they are used again: their role may be gone."""
        self._look_at = 0.0
        if self._login is not None:
            self._login.verify()
        elif (pool := process.pools.get(self.alias)) is not None:
            pool.verify_connections()

    @contextmanager
    def hold_credentials(self) -> Iterator[Credentials]:
        """Return credentials that PostgreSQL accepts, and that are not revoked in this block."""
        with self.wrap_database_errors:
            login = self._logins().open(self.get_connection_params(), self._role)
        try:
            yield login.session.credentials
        finally:
            login.connection.close()
            login.session.closed()

    # -- connecting ------------------------------------------------------------------------

    @property
    def pool(self) -> RotatingConnectionPool[Any] | None:
        """The pool of the alias, made at first use; ``None`` without ``rotating_pool``."""
        options = self.settings_dict["OPTIONS"].get("rotating_pool")
        if self.alias == NO_DB_ALIAS or not options:
            return None
        pool = process.pools.get(self.alias)
        if pool is None:
            pool = self._new_pool({} if options is True else options)
        return pool

    def _new_pool(self, options: Mapping[str, Any]) -> RotatingConnectionPool[Any]:
        params = self.get_connection_params() | {"autocommit": True}
        check = check_role if self.settings_dict["CONN_HEALTH_CHECKS"] else None
        with process.lock:
            if self.alias not in process.pools:
                process.pools[self.alias] = RotatingConnectionPool(
                    self.keeper,
                    session_role=self._role,
                    kwargs=params,
                    configure=self._configure_pooled,
                    **{"check": check, "name": f"django-{self.alias}", **options},
                )
            return process.pools[self.alias]

    def _configure_pooled(self, connection: Any) -> None:
        self._configure_connection(connection)

    def close_pool(self) -> None:
        """Close the pool of the alias, if there is one; its credentials stay."""
        if self.connection is not None and not self.in_atomic_block:
            # Otherwise it would be waited for.
            self.close()
        with process.lock:
            pool = process.pools.pop(self.alias, None)
        if pool is not None:
            pool.close()

    def ensure_timezone(self) -> bool:
        """Set the time zone of the connection; the pool's others follow when they are used."""
        return self.connection is not None and self._configure_timezone(self.connection)

    def _configure_role(self, connection: Any) -> bool:  # noqa: ARG002 - Django's signature
        # Done at the login, so that RESET ROLE and DISCARD ALL do not undo it.
        return False

    def get_connection_params(self) -> dict[str, Any]:
        """Return what to connect with, without user and password.

        Those would show up in the frames of an error, which Django and others report.
        """
        self._refuse_wrong_settings()
        params = super().get_connection_params()
        return {name: value for name, value in params.items() if name not in OURS}

    def get_new_connection(self, conn_params: Mapping[str, Any]) -> Any:
        """Take a connection of the pool, or log in."""
        self._process = process.number
        self._cursors = weakref.WeakSet()
        # It is as good as it can be: look at it again when there is a reason that came later.
        self._look_at = monotonic() + _LOOK_AGAIN
        return super().get_new_connection(conn_params)

    def log_in(self, params: Mapping[str, Any]) -> Any:
        """Log in with the credentials in use."""
        self._login = self._logins(params).open(params, self._role)
        return self._login.connection

    def _logins(self, params: Mapping[str, Any] | None = None) -> Logins:
        params = self.get_connection_params() if params is None else params
        if self.alias == NO_DB_ALIAS:
            # For a moment only, and for several databases: it is closed with its connection.
            return Logins(self.keeper, params, self._role)
        return process.logins(self.keeper, self.alias, params, self._role)

    def init_connection_state(self) -> None:
        """See Django; a connection of the pool may have another time zone."""
        super().init_connection_state()
        pooled = self._login is None
        if pooled and self._configure_timezone(self.connection) and not self.get_autocommit():
            self.connection.commit()
        if not self._needs_test:
            self._look_at = 0.0

    def create_cursor(self, name: str | None = None) -> Any:
        """See Django."""
        cursor = super().create_cursor(name)
        self._cursors.add(cursor)
        return cursor

    def _close(self) -> None:
        login, self._login, self._is_parked = self._login, None, False
        if self._process != process.number:
            # The parent's, whose session would be ended; psycopg does not end it either. With this
            # attribute it does not warn of that.
            self.connection._pool = None  # noqa: SLF001
            self.connection = None
            return
        try:
            super()._close()
        finally:
            if login is not None:
                login.session.closed()
                if self.alias == NO_DB_ALIAS:
                    login.release()

    # -- when to replace a connection ------------------------------------------------------

    @async_unsafe  # type: ignore[untyped-decorator]
    def ensure_connection(self) -> None:
        """See Django; replaces a connection whose credentials were replaced, or whose role is gone.

        Raises:
            django.db.OperationalError: there was no connection in time; the message says why.
        """
        if self.connection is not None and self._must_be_replaced():
            autocommit = self.autocommit
            self.close()
            super().ensure_connection()
            if self.autocommit != autocommit:
                self.set_autocommit(autocommit)
            return
        super().ensure_connection()

    def close_if_unusable_or_obsolete(self) -> None:
        """See Django, which calls this between requests; a connection that is stale is closed."""
        if self.connection is None or self.in_atomic_block:
            super().close_if_unusable_or_obsolete()
            return
        if self._is_stale:
            self.close()
            return
        if self._has_no_successor:
            self.close_at = None
        super().close_if_unusable_or_obsolete()
        if self.connection is not None and self._login is not None:
            self._is_parked = True
            self._login.park()

    def is_usable(self) -> bool:
        """Tell whether the connection works, and its role still exists."""
        if self.connection is None:
            return False
        session = self._login.session if self._login is not None else None
        try:
            # Not SELECT 1, which a session answers that has outlived its role.
            self._ask(CURRENT_USER)
        except psycopg.Error as error:
            if error.sqlstate in SUSPICIOUS:
                self.verify()
            if session is not None and error.sqlstate in ROLE_MISSING:
                session.tested(alive=False)
            return False
        if session is not None:
            session.tested(alive=True)
        return True

    def _ask(self, query: str) -> Any:
        """Return the one value that `query` brings, without leaving a transaction open."""
        idle = self._is_idle
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            (value,) = cursor.fetchone()
        if idle and not self.connection.autocommit:
            self.connection.rollback()
        return value

    def _must_be_replaced(self) -> bool:
        if self._process != process.number:
            return True
        if self.in_atomic_block:
            return False
        if self._is_parked:
            self._is_parked = False
            if self._login is None or not self._login.unpark():
                return True
        if self.connection.closed:
            # In a transaction that it has begun itself, the caller has to notice.
            return self.autocommit
        stale = self._is_stale
        if not (stale or self._needs_test) or not self._is_idle or monotonic() < self._look_at:
            return False
        if stale:
            replace = not self._has_session_state
        else:
            # A pool tests what it lends.
            replace = self._login is None or not self.is_usable()
        if replace or self._is_stale or self._needs_test:
            self._look_at = monotonic() + _LOOK_AGAIN
        return replace

    @property
    def _has_session_state(self) -> bool:
        try:
            return bool(self._ask(_SESSION_STATE))
        except psycopg.Error:
            return False

    @property
    def _is_idle(self) -> bool:
        """Whether it is in no transaction, and no cursor is open."""
        status = self.connection.pgconn.transaction_status
        return status == TransactionStatus.IDLE and all(cursor.closed for cursor in self._cursors)

    @property
    def _is_stale(self) -> bool:
        """Whether newer credentials are in use, or its pool was closed."""
        if self._process != process.number:
            return True
        if self._login is not None:
            return self._login.session.is_stale
        pool = process.pools.get(self.alias)
        return self.connection._pool is not pool or (  # noqa: SLF001 - as Django itself asks
            pool is not None and pool.is_stale(self.connection)
        )

    @property
    def _needs_test(self) -> bool:
        """Whether its role may be gone."""
        if self._login is not None:
            return self._login.session.needs_test
        pool = process.pools.get(self.alias)
        return pool is not None and pool.needs_test(self.connection)

    @property
    def _has_no_successor(self) -> bool:
        """Whether it is past its age, and there is nothing to log in with in its place."""
        age = self.settings_dict["CONN_MAX_AGE"]
        if not age or self.close_at is None or monotonic() < self.close_at:
            return False
        try:
            self.keeper.current()
        except NoCredentials:
            return True
        return False
