# Made from _async/listener.py by tools/make_sync.py: change that, then run "nox -s twins".
"""An iterator of notifications whose connection moves to new credentials."""

from __future__ import annotations

import math
import secrets
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ephemeral_creds._backoff import backoff
from ephemeral_creds.contrib.psycopg._sync.connection import connect
from ephemeral_creds.contrib.psycopg.overlap import Overlap
from ephemeral_creds.contrib.psycopg.readiness import Readiness
from ephemeral_creds.contrib.psycopg.shared import is_stale, require_open
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.keeper.sessions import inner
from ephemeral_creds.observers import logger
from ephemeral_creds.pool._compat import resolved
from ephemeral_creds.pool.login import check_parameters, said_by
from ephemeral_creds.pool.time_limit import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from psycopg import Notify
    from psycopg.abc import ConnParam

    from ephemeral_creds.contrib.psycopg._sync.connection import LeasedConnection
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper

__all__ = ["Listener", "listen"]

# Seconds before a connect that failed is tried again: at first, and at most.
_RETRY_INITIAL, _RETRY_MAX = 0.25, 10.0
# Seconds for a connect, for a statement, and for the old connection to receive the mark.
_CONNECT_TIMEOUT = 10
_QUERY_TIMEOUT = 10.0
_OVERLAP_TIMEOUT = 10.0


def listen(
    keeper: Keeper | AsyncCredentialKeeper,
    conninfo: str,
    channels: str | Iterable[str],
    *,
    catch_up: Callable[[], object] | None = None,
    timeout: float = 30.0,
    **kwargs: ConnParam,
) -> Listener:
    """LISTEN on `channels`, and iterate over the notifications, through every rotation.

    Use it with ``async with``. In a rotation a new connection LISTENs before the old one is closed,
    and no notification is lost or passed on twice. A connection that breaks is replaced, too, but
    PostgreSQL does not repeat what was sent while there was none: `catch_up` is called then.

    Args:
        keeper: where the credentials come from; it has to be started.
        conninfo: the connection string, without user and password. It has to lead to PostgreSQL
            itself, or to a pooler that keeps sessions.
        channels: one channel or several, as they are written in quotes.
        catch_up: called, or called and awaited, whenever notifications may have been missed: once
            LISTEN has begun, and after a connection has been replaced that broke. The place to
            look at the table that notifications are about.
        timeout: how long to wait for the first credentials, in seconds.
        kwargs: more parameters of libpq's; ``connect_timeout`` is 10 by default.

    Raises:
        ConfigurationError: a user or a password is given.
    """
    check_parameters(conninfo, kwargs)
    given = make_conninfo(conninfo, **kwargs)
    if "connect_timeout" not in conninfo_to_dict(given):
        given = make_conninfo(given, connect_timeout=_CONNECT_TIMEOUT)
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    return Listener(keeper, given, names, catch_up, timeout)


class Listener:
    """An iterator of `psycopg.Notify`; made by `listen`.

    It works while it is asked for notifications. Between two calls PostgreSQL and the network keep
    what arrives, and nothing moves to new credentials: come back before those in use expire.
    """

    def __init__(
        self,
        keeper: Keeper | AsyncCredentialKeeper,
        conninfo: str,
        channels: tuple[str, ...],
        catch_up: Callable[[], object] | None,
        timeout: float,
    ) -> None:
        self._keeper = inner(keeper)
        self._conninfo = conninfo
        self._catch_up = catch_up
        self._timeout = timeout
        # A channel of our own, for the mark that tells both connections where to take turns.
        self._mark_channel = f"ephemeral_creds_{secrets.token_hex(8)}"
        self._channels = (*channels, self._mark_channel)
        self._pending: deque[Notify] = deque()
        self._current: LeasedConnection[Any] | None = None
        self._old: LeasedConnection[Any] | None = None
        self._overlap: Overlap | None = None
        self._overlap_ends_at = math.inf
        self._failures = 0
        self._failed_generation = 0
        self._retry_at = -math.inf
        self._stopped = False
        self._readiness = Readiness()
        self._ignore: Callable[[], None] | None = None

    @property
    def generation(self) -> int:
        """The generation that its connection logged in with; 0 while it has none."""
        return 0 if self._current is None else self._current.generation

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Notify:
        notify = self.get()
        if notify is None:
            raise StopIteration
        return notify

    def get(self, timeout: float | None = None) -> Notify | None:
        """Return the next notification; ``None`` if it was stopped, or none came in time.

        Args:
            timeout: how long to wait, in seconds; ``None`` for as long as it takes.

        Raises:
            KeeperClosed: the keeper was closed.
        """
        deadline = math.inf if timeout is None else monotonic() + timeout
        self._start()
        while not self._stopped:
            if self._pending:
                return self._pending.popleft()
            self._advance()
            self._read()
            if self._pending:
                continue
            now, until = monotonic(), min(deadline, self._due_at)
            if now >= deadline:
                break
            if now < until:
                files = [c.fileno() for c in (self._old, self._current) if c is not None]
                self._readiness.wait(files, until - now if until < math.inf else None)
        return None

    def stop(self) -> None:
        """End the iteration: `get` returns ``None`` from now on. May be called from any thread."""
        self._stopped = True
        self._readiness.wake()

    def close(self) -> None:
        """Close its connections. The iteration has ended then."""
        self._stopped = True
        if self._ignore is not None:
            self._ignore()
        for connection in (self._old, self._current):
            if connection is not None:
                connection.close()
        self._old = self._current = None
        self._readiness.close()

    def _start(self) -> None:
        if self._ignore is None and not self._stopped:
            self._ignore = self._keeper.on_change(self._readiness.wake)
            self._current = self._open(self._timeout)
            self._call_catch_up()

    @property
    def _due_at(self) -> float:
        """The instant of the next thing to do that no connection and no keeper announces."""
        retry_at = self._retry_at if self._wants_connection else math.inf
        return min(retry_at, self._overlap_ends_at)

    @property
    def _wants_connection(self) -> bool:
        return self._current is None or (self._old is None and is_stale(self._current))

    def _open(self, timeout: float) -> LeasedConnection[Any]:
        """Connect and LISTEN."""
        connection = connect(self._keeper, self._conninfo, timeout=timeout, autocommit=True)
        try:
            with TimeLimit(connection, _QUERY_TIMEOUT):
                for channel in self._channels:
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except BaseException:
            connection.close()
            raise
        return connection

    def _advance(self) -> None:
        """Do what is due: connect, or give up waiting for the old connection.

        Raises:
            KeeperClosed: there will be no other credentials.
        """
        require_open(self._keeper)
        now = monotonic()
        if now >= self._overlap_ends_at:
            self._lose_old("did not receive the mark in time")
        is_new = self._keeper.generation != self._failed_generation
        if self._wants_connection and (now >= self._retry_at or is_new):
            try:
                self._replace()
            except (psycopg.Error, EphemeralCredsError, OSError) as error:
                self._failed(error)
            else:
                self._failures = self._failed_generation = 0
                self._retry_at = -math.inf

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        delay = backoff(self._failures, _RETRY_INITIAL, _RETRY_MAX)
        self._retry_at = monotonic() + delay
        self._failed_generation = self._keeper.generation
        if self._failures == 1:
            state = "there is no" if self._current is None else "the old one serves as"
            logger.warning(
                "%s: %s LISTEN connection until another is open: %s",
                self._keeper.name,
                state,
                said_by(error),
            )

    def _replace(self) -> None:
        """Open a connection in place of one that is stale, or broke."""
        new = self._open(0.0)
        if self._current is None:
            self._current = new
            self._call_catch_up()
            return
        mark = secrets.token_hex(8)
        try:
            with TimeLimit(new, _QUERY_TIMEOUT):
                new.execute("SELECT pg_notify(%s, %s)", [self._mark_channel, mark])
        except BaseException:
            new.close()
            raise
        self._overlap = Overlap(self._mark_channel, mark)
        self._overlap_ends_at = monotonic() + _OVERLAP_TIMEOUT
        self._old, self._current = self._current, new

    def _read(self) -> None:
        """Take what has arrived."""
        if self._old is not None and self._overlap is not None:
            try:
                self._pass_on(self._overlap.old(self._received(self._old)))
            except psycopg.Error as error:
                self._lose_old(f"broke: {said_by(error)}")
        if self._current is None:
            return
        try:
            received = self._received(self._current)
        except psycopg.Error as error:
            self._lose_current(error)
            return
        if self._overlap is None:
            self._pass_on(received)
            return
        self._overlap.new(received)
        if self._overlap.is_complete:
            self._end_overlap()

    def _lose_old(self, reason: str) -> None:
        logger.warning("%s: the LISTEN connection that was replaced %s", self._keeper.name, reason)
        self._end_overlap()
        self._call_catch_up()

    def _end_overlap(self) -> None:
        """It is the new connection's turn."""
        old, overlap = self._old, self._overlap
        self._old = self._overlap = None
        self._overlap_ends_at = math.inf
        if overlap is not None:
            self._pass_on(overlap.rest())
        if old is not None:
            old.close()

    def _lose_current(self, error: Exception) -> None:
        lost, self._current = self._current, None
        if self._old is not None:
            # It is there still, and has missed nothing.
            self._current, self._old, self._overlap = self._old, None, None
            self._overlap_ends_at = math.inf
        else:
            logger.warning("%s: the LISTEN connection broke: %s", self._keeper.name, said_by(error))
        if lost is not None:
            lost.close()

    def _pass_on(self, received: Iterable[Notify]) -> None:
        self._pending.extend(n for n in received if n.channel != self._mark_channel)

    def _call_catch_up(self) -> None:
        if self._catch_up is not None:
            resolved(self._catch_up)

    def _received(self, connection: LeasedConnection[Any]) -> list[Notify]:
        """Return what has arrived, without waiting."""
        found = connection.notifies(timeout=0.0)
        return [notify for notify in found if notify.channel in self._channels]
