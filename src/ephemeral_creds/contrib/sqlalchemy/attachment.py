"""Having an engine of SQLAlchemy's log in with a keeper's credentials."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError, MissingGreenlet
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

from ephemeral_creds._fork import register
from ephemeral_creds.contrib._login import ROLE_MISSING
from ephemeral_creds.contrib.sqlalchemy.failures import sqlstate_of
from ephemeral_creds.contrib.sqlalchemy.idle import IdleReplacer, Outcome, replace_idle
from ephemeral_creds.contrib.sqlalchemy.keepers import GivenKeeper, OwnKeeper
from ephemeral_creds.contrib.sqlalchemy.logins import Logins
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.observers import logger
from ephemeral_creds.pool.keeper_for import validate_keeper
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import URL, Dialect
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

    from ephemeral_creds.contrib.sqlalchemy.keepers import KeeperSource
    from ephemeral_creds.contrib.sqlalchemy.logins import Login
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import Observer

__all__ = ["Attachment", "attach", "keeper_of", "refuse_credentials"]

_DRIVERS = ("psycopg", "asyncpg")

# Where a replacement waits between the checkout that opened it and the reconnect that takes it.
_SPARE = "ephemeral_creds"

# Checkouts that open a replacement at the same time; others use the old connection, whose
# lease is not revoked before it is closed. As `RotationPolicy.overshoot` has it.
_OVERSHOOT = 2

# After a replacement could not be opened, in seconds.
_RETRY = 5.0

# Without a pool that says how long a checkout may take, in seconds: what QueuePool has by default.
_TIMEOUT = 30.0

# By the dialect, which an engine shares with those that its execution_options() return.
_attachments: weakref.WeakKeyDictionary[Dialect, Attachment] = weakref.WeakKeyDictionary()


def attach(
    engine: Engine | AsyncEngine,
    credentials: CredentialProvider | Keeper | AsyncCredentialKeeper,
    *,
    session_role: str | None = None,
    refresh: RefreshPolicy | None = None,
    observers: Sequence[Observer] | None = None,
) -> None:
    """Have each new connection of `engine` log in with the credentials in use.

    Its pool is SQLAlchemy's own. Connections with earlier credentials are replaced: idle ones in
    the background, others when they are checked out the next time, a new one before the old.

    Args:
        engine: a sync or async engine for psycopg 3 or asyncpg, before its first connection. Its
            URL has neither user nor password.
        credentials: a provider, for which a keeper is made with the first connection, in each
            process, and closed when that ends; or a started keeper, which its owner closes.
        session_role: the role that each session acts as, if it is not the one that logs in.
            Objects then belong to a role that stays. The minted roles must be members of it.
        refresh: when to renew, retry and mint; only with a provider.
        observers: called with each event; only with a provider. By default events are logged.

    Raises:
        ConfigurationError: the engine has a user or a password, another driver, or credentials
            already; or there are no credentials in the second argument.
    """
    source: KeeperSource
    if isinstance(credentials, CredentialProvider):
        source = OwnKeeper(credentials, refresh, observers)
    else:
        argument = "the second argument of attach()"
        source = GivenKeeper(validate_keeper(credentials, refresh, observers, argument))
    Attachment(engine, source, session_role)


def keeper_of(engine: Engine | AsyncEngine) -> Keeper:
    """Return the keeper of an engine, for its status or to refresh; it is made if need be.

    Raises:
        ConfigurationError: the engine has none.
    """
    attachment = _attachments.get(_sync_engine(engine).dialect)
    if attachment is None:
        raise ConfigurationError(
            f"{engine!r} has no keeper: attach() it to one, or have plugin=ephemeral_creds in its "
            "URL"
        )
    return attachment.logins().sessions.keeper


def _sync_engine(engine: Engine | AsyncEngine) -> Engine:
    # Without importing `AsyncEngine`: from SQLAlchemy 2.1 on, only what does needs greenlet.
    return engine if isinstance(engine, Engine) else engine.sync_engine


def refuse_credentials(url: URL, arguments: Iterable[str]) -> None:
    """Refuse a user or a password in a URL, or among the names of a driver's arguments.

    Raises:
        ConfigurationError: there is one. It is not repeated.
    """
    given = {*url.query, *arguments} & {"user", "password", "passfile"}
    given |= {name for name in ("username", "password") if getattr(url, name) is not None}
    if given:
        raise ConfigurationError(
            f"the engine's URL or connect_args have {', '.join(sorted(given))}: remove that, the "
            "credential provider brings user and password"
        )


class Attachment:
    """What listens to an engine, its dialect and its pool.

    Args:
        engine: the engine.
        source: where its keeper comes from.
        session_role: the role that sessions act as, if it is not the one that logs in.

    Raises:
        ConfigurationError: the engine cannot be used.
    """

    def __init__(
        self, engine: Engine | AsyncEngine, source: KeeperSource, session_role: str | None
    ) -> None:
        engine = _sync_engine(engine)
        dialect = engine.dialect
        if dialect in _attachments:
            raise ConfigurationError(f"{engine!r} has credentials already")
        if dialect.driver not in _DRIVERS:
            raise ConfigurationError(
                f"the engine's driver is {dialect.driver}: credentials are for "
                "postgresql+psycopg:// and postgresql+asyncpg://"
            )
        refuse_credentials(engine.url, ())
        self._engine = weakref.ref(engine)
        self._url = engine.url
        self._dialect: Any = dialect
        self._source = source
        self._session_role = session_role
        self._pings: bool = engine.pool._pre_ping  # noqa: SLF001 - there is no other way to know
        self._inherited: list[object] = []
        self._begin_anew()
        event.listen(engine, "do_connect", self._do_connect)
        event.listen(engine, "handle_error", self._handle_error)
        event.listen(engine, "connect", self._connect)
        event.listen(engine, "checkout", self._checkout)
        event.listen(engine, "checkin", self._checkin)
        event.listen(engine, "close", self._close)
        event.listen(engine, "close_detached", self._close)
        event.listen(engine, "engine_disposed", self._end)
        # An engine that is forgotten is as good as disposed of.
        weakref.finalize(engine, self._end).atexit = False
        _attachments[dialect] = self
        register(self)

    def _begin_anew(self) -> None:
        # Reentrant: a collection while it is held may end an engine that was forgotten.
        self._lock = threading.RLock()
        self._logins: Logins | None = None
        self._known: weakref.WeakKeyDictionary[Any, Login] = weakref.WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._replacer = IdleReplacer(self._replace_idle)
        self._replaced_in: Pool | None = None
        self._overshoot = threading.BoundedSemaphore(_OVERSHOOT)
        self._retry_at = -math.inf

    def _after_fork(self) -> None:
        self._begin_anew()

    def logins(self) -> Logins:
        """Return what logs in, in this process; made with the first connection."""
        with self._lock:
            if self._logins is None:
                self._logins = Logins(
                    *(self._dialect, self._source, self._session_role),
                    *(self._timeout(), self._known, self._changed),
                )
            return self._logins

    def _end(self, disposed: Engine | None = None) -> None:
        """Let go of the keeper: the engine was disposed of, or forgotten. It may be used again."""
        with self._lock:
            logins, self._logins = self._logins, None
            replacer, self._replacer = self._replacer, IdleReplacer(self._replace_idle)
            replacer.end()
            replaced_in, self._replaced_in = self._replaced_in, None
        if disposed is not None and self._dialect.is_async:
            # Without a greenlet, its sync engine was disposed of, which cannot wait.
            with contextlib.suppress(MissingGreenlet):
                await_only(replacer.ended_here())
        if replaced_in is not None and replaced_in is not self._pool():
            # What was put into it after it had been emptied.
            replaced_in.dispose()
        if logins is not None:
            logins.end()

    def _pool(self) -> Pool | None:
        engine = self._engine()
        return None if engine is None else engine.pool

    def _timeout(self) -> float:
        pool = self._pool()
        return pool.timeout() if isinstance(pool, QueuePool) else _TIMEOUT

    def _find(self, connection: DBAPIConnection | None) -> Login | None:
        if connection is None:
            return None
        return self._known.get(self._dialect.get_driver_connection(connection))

    # -- connecting and closing ------------------------------------------------------------

    def _do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> DBAPIConnection:
        spares = None if record is None else record.record_info
        if spares and _SPARE in spares:
            spare: DBAPIConnection = spares.pop(_SPARE)
            return spare
        refuse_credentials(self._url, kwargs)
        if dialect.is_async:
            self._loop = asyncio.get_running_loop()
        return self.logins().open(args, kwargs)

    def _connect(self, connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        if self._find(connection) is None:
            raise ConfigurationError(
                "a connection was opened by something else than the engine's driver, without the "
                "keeper's credentials: remove creator= or async_creator=, or the do_connect "
                "listener that returns it"
            )

    def _close(self, connection: DBAPIConnection, *_: ConnectionPoolEntry) -> None:
        login = self._find(connection)
        if login is not None:
            login.owner.close(login, connection)

    # -- checking out and in ---------------------------------------------------------------

    def _checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        login = self._find(connection)
        if login is None:
            # Closing it would end the session of the parent process.
            self._inherited.append(connection)
            entry: Any = record
            fairy: Any = proxy
            entry.dbapi_connection = fairy.dbapi_connection = None
            raise DisconnectionError("the connection was opened before this process was forked")
        session = login.session
        if login.fresh:
            # SQLAlchemy reconnects twice in a checkout: what has just been opened is not doubted.
            login.fresh = False
            return
        if session.is_stale and self._can_replace(login, record):
            raise DisconnectionError("other credentials are in use")
        is_in_doubt = session.needs_test or self._pings or login.owner.has_news(connection)
        if is_in_doubt and not login.owner.test(login, connection):
            raise DisconnectionError("its role may not exist any more")

    def _can_replace(self, login: Login, record: ConnectionPoolEntry) -> bool:
        """Tell whether to reconnect now; a new connection is opened first, unless time is up."""
        if login.session.is_overdue:
            return True
        if monotonic() < self._retry_at or not self._overshoot.acquire(blocking=False):
            return False
        try:
            spare = self.logins().open_another()
        except Exception as error:  # noqa: BLE001 - whatever it is, the old connection works
            self._retry_at = monotonic() + _RETRY
            logger.warning(
                "a connection of generation %d stays in use, as no other can be opened now: %s",
                login.session.generation,
                error,
            )
            return False
        finally:
            self._overshoot.release()
        if record.record_info is not None:
            record.record_info[_SPARE] = spare
        return True

    def _checkin(self, connection: DBAPIConnection | None, _: ConnectionPoolEntry) -> None:
        login = self._find(connection)
        if login is not None and login.session.is_stale:
            self._changed()

    # -- in the background -----------------------------------------------------------------

    def _changed(self) -> None:
        """Replace idle connections that have become stale; returns at once."""
        if self._known and (self._loop is not None or not self._dialect.is_async):
            self._replacer.wake(self._loop)

    def _replace_idle(self) -> Outcome:
        replacer, pool = self._replacer, self._pool()
        if pool is None:
            return Outcome.NOTHING
        self._replaced_in = pool
        outcome = replace_idle(pool, self._is_stale, self._is_overdue)
        if replacer.ended and pool is not self._pool():
            pool.dispose()
        return outcome

    def _is_stale(self, entry: ConnectionPoolEntry) -> bool:
        login = self._find(entry.dbapi_connection)
        return login is not None and login.session.is_stale

    def _is_overdue(self, entry: ConnectionPoolEntry) -> bool:
        login = self._find(entry.dbapi_connection)
        return login is not None and login.session.is_overdue

    # -- failed queries --------------------------------------------------------------------

    def _handle_error(self, context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None or connection.closed or connection.invalidated:
            return
        if sqlstate_of(context.original_exception) in ROLE_MISSING:
            self.logins().sessions.verify()
        login = self._find(connection.connection.dbapi_connection)
        if context.is_disconnect and login is not None and login.session.is_stale:
            # The server has ended the session with its role; others have nothing to do with it.
            context.invalidate_pool_on_disconnect = False
