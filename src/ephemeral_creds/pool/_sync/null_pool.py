# Made from _async/null_pool.py by tools/make_sync.py: change that, then run "nox -s twins".
"""A pool that keeps no connection, for a PgBouncer in between or a short process."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any  # noqa: F401 - for annotations of psycopg_pool's

from psycopg import Connection
from psycopg_pool import (
    ConnectionPool,  # noqa: F401 - for annotations of psycopg_pool's
    NullConnectionPool,
    PoolClosed,
    PoolTimeout,
)
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam
from psycopg_pool.pool import AddConnection

from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.keeper.consumer import Keeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.observers import Observer
from ephemeral_creds.pool._sync.pool import RotatingConnectionPool
from ephemeral_creds.pool.errors import ConnectFailed
from ephemeral_creds.pool.policy import RotationPolicy
from ephemeral_creds.pool.psycopg_pool_quirks import (
    check_borrowed,
    count_refused,
    finish_return,
    uncount_request,
)
from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["RotatingNullConnectionPool"]


class RotatingNullConnectionPool(RotatingConnectionPool[CT], NullConnectionPool[CT]):
    """The `RotatingConnectionPool` that keeps no connection.

    Like `psycopg_pool.NullConnectionPool`, see
    https://www.psycopg.org/psycopg3/docs/advanced/pool.html#null-connection-pools, it opens a
    connection for each checkout and closes it when it is returned. With ``max_size`` there are
    never more than that many at a time: further clients wait, and one that is returned goes to the
    first of them. So there is nothing to replace in a rotation: new checkouts log in with the new
    credentials, a connection of the old ones goes to no other client, and the old lease is revoked
    as soon as the last of them is returned.

    A connect that fails ends the checkout at once, with an error that says why. Where PostgreSQL
    refuses the credentials, or they have expired, the checkout waits for others instead, for as
    long as it may.

    Args:
        credentials: and all that follow: see `RotatingConnectionPool`, except for these.
        rotation: how to move to new credentials; ``overshoot`` and ``park`` mean nothing here.
        min_size: 0: there is no other.
        max_size: how many connections there may be; by default there is no limit.
        reset: called for a connection that goes from one client to the next.
        close_returns: accepted and ignored, as are `max_idle`, `reconnect_timeout` and
            `reconnect_failed`.

    Raises:
        ConfigurationError: arguments contradict each other, or hold a user or a password.
        ValueError: `min_size` is not 0.
    """

    _keeps = False

    def __init__(
        self,
        credentials: CredentialProvider | Keeper | AsyncCredentialKeeper,
        conninfo: ConninfoParam = "",
        *,
        refresh: RefreshPolicy | None = None,
        rotation: RotationPolicy | None = None,
        observers: Sequence[Observer] | None = None,
        session_role: str | None = None,
        connection_class: type[CT] = Connection,  # type: ignore[assignment]
        kwargs: KwargsParam | None = None,
        min_size: int = 0,
        max_size: int | None = None,
        open: bool = False,  # noqa: A002 - psycopg_pool's name
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
    ) -> None:
        super().__init__(
            credentials,
            conninfo,
            refresh=refresh,
            rotation=rotation,
            observers=observers,
            session_role=session_role,
            connection_class=connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=configure,
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )

    def _take(self, deadline: float) -> CT:
        while True:
            try:
                self._wait_for_credentials(deadline)
            except PoolTimeout:
                count_refused(self)
                raise
            try:
                return super()._take(deadline)
            except ConnectFailed as failed:
                failure = failed.failure
            if not failure.lacks_credentials or self._rotation.stopped:
                # getconn() finds the failure, and raises what it is.
                raise PoolTimeout("waiting does not help")
            uncount_request(self)

    def _wait_for_credentials(self, deadline: float) -> None:
        """Wait until a login may succeed.

        Not in the connect: psycopg_pool holds its lock there, and a client that returns a
        connection would have to wait, too.

        Raises:
            PoolTimeout: there are none in time, or only a person can help.
            psycopg_pool.PoolClosed: the pool was closed meanwhile.
        """
        if self.closed:
            return
        if not self._rotation.serving:
            try:
                self._connector.credentials(deadline - monotonic())
            except EphemeralCredsError:
                if not self._rotation.stopped:
                    raise PoolTimeout("there are no credentials") from None
        self._connector.wait_while_refused(deadline)
        if self._rotation.stopped:
            raise PoolClosed(f"the pool {self.name!r} is closed")
        if deadline <= monotonic():
            raise PoolTimeout("no time is left")

    def _putconn_stale(self, conn: CT) -> None:
        if self._abandoned or not self._rotation.is_stale(conn):
            super()._putconn_stale(conn)
            return
        check_borrowed(self, conn)
        self._rotation.stale_returned()
        try:
            self._discard(conn)
        except BaseException:
            finish_return(self, conn)
            raise

    def _discard(self, conn: CT) -> None:
        # False where a client waits for it.
        if not self._maybe_close_connection(conn):
            try:
                self._close_connection(conn)
            finally:
                self.run_task(AddConnection(self))
