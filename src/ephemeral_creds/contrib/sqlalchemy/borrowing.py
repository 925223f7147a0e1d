"""Engines of SQLAlchemy that borrow their connections from a pool of ours."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import sqlalchemy
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.hstore import register_hstore
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import URL, event
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from ephemeral_creds.contrib._login import ROLE_MISSING
from ephemeral_creds.contrib.sqlalchemy.failures import sqlstate_of
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.pool.psycopg_pool_quirks import close_borrowed, close_borrowed_async

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool
    from ephemeral_creds.pool._sync.pool import RotatingConnectionPool

__all__ = ["create_async_engine", "create_engine"]

# Options that open connections, or pool them, in another way.
_NOT_OURS = ("creator", "async_creator", "poolclass", "connect_args")

# What a session is set to without the server being told at once, in the order to set it in.
_SETTINGS = ("autocommit", "isolation_level", "read_only", "deferrable")


def create_engine(pool: RotatingConnectionPool[Any], **options: Any) -> Engine:
    """Return an engine whose connections are borrowed from a pool.

    A connection of the engine's is one of the pool's until it is closed. What the engine sets on
    it, notice handlers, adapters, isolation level and autocommit, is undone when it is returned.
    `dispose` closes nothing: who made the pool opens and closes it.

    Args:
        pool: the pool. It need not be open yet.
        options: those of ``sqlalchemy.create_engine``, but for those that open or pool connections.

    Raises:
        ConfigurationError: there is such an option, or the pool is for asyncio.
    """
    lender = _Lender(pool, ConnectionPool, options)
    engine = sqlalchemy.create_engine(
        lender.url, creator=lender.lend, poolclass=lender.pool_class(), **options
    )
    lender.serve(engine)
    return engine


def create_async_engine(pool: AsyncRotatingConnectionPool[Any], **options: Any) -> AsyncEngine:
    """Do what `create_engine` does, for asyncio.

    Args:
        pool: the pool. It need not be open yet.
        options: those of ``sqlalchemy.ext.asyncio.create_async_engine``, but for those that open or
            pool connections.

    Raises:
        ConfigurationError: there is such an option, or the pool is not for asyncio.
    """
    # From SQLAlchemy 2.1 on this needs greenlet, which engines for threads do without.
    from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

    lender = _Lender(pool, AsyncConnectionPool, options)
    engine = sqlalchemy_asyncio.create_async_engine(
        lender.url, async_creator=lender.lend_async, poolclass=lender.pool_class(), **options
    )
    lender.serve(engine.sync_engine)
    return engine


class _Lender:
    """Checks connections out of a pool for an engine, and returns them as they were.

    Args:
        pool: the pool.
        kind: what it has to be.
        options: the engine's.
    """

    def __init__(
        self,
        pool: RotatingConnectionPool[Any] | AsyncRotatingConnectionPool[Any],
        kind: type[Any],
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(pool, kind):
            raise ConfigurationError(
                f"create_engine() takes a RotatingConnectionPool, and create_async_engine() an "
                f"AsyncRotatingConnectionPool; given was {type(pool).__name__!r}"
            )
        if given := [name for name in _NOT_OURS if name in options]:
            raise ConfigurationError(
                f"{', '.join(given)}: the engine's connections are the pool's; leave that out, and "
                "give conninfo= and kwargs= to the pool"
            )
        self._pool: Any = pool
        self._options = options
        self._context: Any = None
        # By the driver's connection, which the pool keeps: what it was before the engine had it.
        self._before: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._adapters: weakref.WeakKeyDictionary[Any, AdaptersMap] = weakref.WeakKeyDictionary()

    @property
    def url(self) -> URL:
        """Where the pool connects to, as far as that is known, for labels and messages."""
        conninfo = self._pool.conninfo
        known = conninfo_to_dict(conninfo) if isinstance(conninfo, str) else {}
        host, port = str(known.get("host") or ""), str(known.get("port") or "")
        simple = not {",", "/", "@"}.intersection(host + port)
        return URL.create(
            "postgresql+psycopg",
            host=host or None if simple else None,
            port=int(port) if simple and port else None,
            database=known.get("dbname"),  # type: ignore[arg-type]
        )

    def serve(self, engine: Engine) -> None:
        """Get ready for the connections of `engine`, which has been made for it."""
        _, arguments = engine.dialect.create_connect_args(engine.url)
        # What it registers adapters in, some of them with the first connection only.
        self._context = arguments.get("context")
        event.listen(engine, "handle_error", self._handle_error)

    def pool_class(self) -> type[NullPool]:
        """Return the class of the engine's own pool, which pools nothing."""
        lender = self

        class BorrowingPool(NullPool):
            def _close_connection(
                self, connection: DBAPIConnection, *, terminate: bool = False
            ) -> None:
                # What it says in NullPool, where a connection is closed.
                self.logger.debug("Returning connection %r", connection)
                try:
                    lender.take_back(self._dialect, connection, terminate=terminate)
                except Exception:
                    self.logger.exception("Exception returning connection %r", connection)

        return BorrowingPool

    def lend(self) -> Any:
        """Check a connection out."""
        connection = self._pool.getconn()
        try:
            self._prepare(connection)
        except BaseException:
            self._pool.putconn(connection)
            raise
        return connection

    async def lend_async(self) -> Any:
        """Do what `lend` does."""
        connection = await self._pool.getconn()
        try:
            self._prepare(connection)
        except BaseException:
            await self._pool.putconn(connection)
            raise
        return connection

    def take_back(self, dialect: Any, connection: DBAPIConnection, *, terminate: bool) -> None:
        """Return a connection; with `terminate`, close it first: it is not to be used again."""
        ours: Any = dialect.get_driver_connection(connection)
        if dialect.is_async:
            await_only(self._take_back_async(ours, terminate))
            return
        try:
            if not (terminate or ours.closed):
                self._restore(ours)
        finally:
            if terminate:
                close_borrowed(ours)
            self._pool.putconn(ours)

    async def _take_back_async(self, connection: Any, terminate: bool) -> None:
        try:
            if not (terminate or connection.closed):
                await self._restore_async(connection)
        finally:
            if terminate:
                await close_borrowed_async(connection)
            await self._pool.putconn(connection)

    # -- what the engine sets --------------------------------------------------------------

    def _prepare(self, connection: Any) -> None:
        """Note how a connection is, and have the engine's adapters on it."""
        self._before[connection] = {
            **{name: getattr(connection, name) for name in _SETTINGS},
            "_adapters": connection._adapters,  # noqa: SLF001 - it can be read, but not set
            "_notice_handlers": list(connection._notice_handlers),  # noqa: SLF001
        }
        adapters = self._adapters.get(connection)
        if adapters is None:
            adapters = self._adapters[connection] = self._own_adapters(connection)
        connection._adapters = adapters  # noqa: SLF001

    def _own_adapters(self, connection: Any) -> AdaptersMap:
        """Return those of a connection with what the engine's options add.

        The dialect passes its own to ``psycopg.connect``, in which the connection has no part.
        """
        adapters, options = AdaptersMap(connection.adapters), self._options
        if (loads := options.get("json_deserializer")) is not None:
            set_json_loads(loads, adapters)
        if (dumps := options.get("json_serializer")) is not None:
            set_json_dumps(dumps, adapters)
        if options.get("native_inet_types") is False:
            adapters.register_loader("inet", TextLoader)
            adapters.register_loader("cidr", TextLoader)
        hstore = None if self._context is None else self._context.types.get("hstore")
        if hstore is not None:
            register_hstore(hstore, adapters)
        return adapters

    def _restore(self, connection: Any) -> None:
        before = self._forget(connection)
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            # With pool_reset_on_return=None.
            connection.rollback()
        for name in _SETTINGS:
            if getattr(connection, name) != before[name]:
                setattr(connection, name, before[name])

    async def _restore_async(self, connection: Any) -> None:
        before = self._forget(connection)
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await connection.rollback()
        for name in _SETTINGS:
            if getattr(connection, name) != before[name]:
                await getattr(connection, f"set_{name}")(before[name])

    def _forget(self, connection: Any) -> dict[str, Any]:
        before = self._before.pop(connection)
        connection._adapters = before["_adapters"]  # noqa: SLF001
        connection._notice_handlers[:] = before["_notice_handlers"]  # noqa: SLF001
        return before

    def _handle_error(self, context: ExceptionContext) -> None:
        # The pool itself sees what is rolled back, and nothing with autocommit.
        if sqlstate_of(context.original_exception) in ROLE_MISSING:
            self._pool.verify_connections()
