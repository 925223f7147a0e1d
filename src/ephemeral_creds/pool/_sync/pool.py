# Made from _async/pool.py by tools/make_sync.py: change that, then run "nox -s twins".
"""A psycopg connection pool that moves to new credentials while queries run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from threading import RLock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any  # noqa: F401 - for annotations of psycopg_pool's

from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.keeper.consumer import Keeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.observers import Observer
from ephemeral_creds.pool._compat import Wakeup, open_at_construction
from ephemeral_creds.pool._sync.internals import Internals
from ephemeral_creds.pool.errors import CheckoutFailed, as_checkout_failed
from ephemeral_creds.pool.login import check_parameters
from ephemeral_creds.pool.policy import RotationPolicy
from ephemeral_creds.pool.psycopg_pool_quirks import AT_ONCE, close_timeout, finish_return
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["RotatingConnectionPool"]

# Not super(), whose lookup is a third of what our two cost; looked up once, not at each checkout.
_getconn, _putconn = ConnectionPool.getconn, ConnectionPool.putconn


class RotatingConnectionPool(Internals[CT]):
    """A `psycopg_pool.ConnectionPool` that takes credentials from a provider and rotates.

    It has all methods and arguments of psycopg's own pool, see
    https://www.psycopg.org/psycopg3/docs/api/pool.html, with these differences:

    - User and password come from `credentials`; ``conninfo`` and ``kwargs`` must have neither.
    - When the credentials change, the pool opens connections with the new ones, ``overshoot`` at
      a time, and closes an old one for each: idle ones at once, borrowed ones when they are
      returned. The old lease is revoked when its last connection is closed. There are never more
      than ``max_size + overshoot`` connections.
    - A failed connect is tried again after a fraction of a second, and at once when new
      credentials arrive; ``reconnect_failed`` is called after ``reconnect_timeout``, as in
      psycopg's pool.
    - A checkout that times out says why: see `ephemeral_creds.exceptions`.
    - ``open`` is false by default: use the pool as a context manager, or call `open`.

    The keeper has a thread of its own: a busy event loop cannot keep it from renewing, and pools
    of both kinds may share one.

    Open the pool after a fork, never before: an inherited pool raises `psycopg_pool.PoolClosed`.

    Args:
        credentials: a provider, for which the pool makes a keeper of its own; or a
            `CredentialKeeper`, which pools may share and its owner closes.
        conninfo: connection string without user and password, or a callable that returns one.
        refresh: when to renew, retry and mint; only with a provider.
        rotation: how to move to new credentials.
        observers: called with each event; only with a provider. By default events are logged.
        session_role: the role that each session acts as, if it is not the one that logs in.
            Objects then belong to a role that stays, and do not keep a lease from being revoked.
            The minted roles must be members of it.
        kwargs: this and all that follow are arguments of psycopg_pool.

    Raises:
        ConfigurationError: arguments contradict each other, or hold a user or a password.
    """

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
        min_size: int = 4,
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
        # Imported with the first pool, not with the class: they take longer than all the rest.
        from ephemeral_creds.pool._sync.connector import Connector
        from ephemeral_creds.pool._sync.worker import Worker
        from ephemeral_creds.pool.keeper_for import keeper_for
        from ephemeral_creds.pool.rotation import Rotation

        if isinstance(conninfo, str) and not callable(kwargs):
            check_parameters(conninfo, kwargs or {})
        self._keeper, self._own_keeper = keeper_for(credentials, refresh, observers)
        wakeup = Wakeup()
        policy = rotation or RotationPolicy()
        self._rotation: Rotation[CT] = Rotation(
            policy, RLock, wakeup.wake, checks=check is not None, keeps=self._keeps
        )
        self._now = self._keeper.clock.now
        self._check_error = None
        self._connector = Connector(
            self,
            connection_class,
            configure,
            self._keeper,
            self._rotation,
            policy.connect_timeout,
            session_role,
            wakeup,
        )
        self._beginning = threading.Lock()
        self._begun = self._ended = self._abandoned = False
        self._diagnosis = None
        super().__init__(
            conninfo,
            connection_class=self._connector.connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=self._connector.configure,
            check=self._weak_check(check) if check is not None else None,
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
        self._worker = Worker(self, self._keeper, self._connector, self._rotation, wakeup)
        register(self)
        if open:
            open_at_construction(self)

    # -- psycopg_pool's own methods --------------------------------------------------------

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start to fetch credentials and to connect, in the background.

        With `wait`, raises what `wait` raises, too.

        Args:
            wait: whether to wait for ``min_size`` connections, as `wait` does.
            timeout: how long to wait, in seconds.

        Raises:
            psycopg_pool.PoolClosed: the pool was closed before.
        """
        self._refuse_after_fork()
        with self._beginning:
            if not self._begun:
                if self._own_keeper is not None:
                    self._own_keeper.start()
                self._rotation.join(*self._keeper.join(self._rotation))
                self._begun = True
            # Also if that failed the last time.
            self._worker.start()
            super().open(wait=False)
        if wait:
            self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until ``min_size`` connections are open; close the pool if it fails.

        Each error is a `psycopg_pool.PoolTimeout` as well.

        Args:
            timeout: how long to wait, in seconds.

        Raises:
            ConfigurationError, AccessDenied: at once, if only a person can help.
            NotReady: there were no credentials in time; the message has the last failure.
            LoginRefused: PostgreSQL refuses the credentials.
            ServerRefused: PostgreSQL refuses for another reason.
            DatabaseUnreachable: PostgreSQL does not answer.
        """
        self._refuse_after_fork()
        deadline = monotonic() + timeout
        if not self.closed and not self._rotation.serving:
            try:
                self._connector.credentials(timeout)
            except EphemeralCredsError as error:
                status = self._keeper.status()
                self.close()
                raise as_checkout_failed(error, status) from error.__cause__
        try:
            if self.closed or not self._rotation.overview.misconfigured:
                super().wait(max(deadline - monotonic(), AT_ONCE))
            if self._rotation.overview.misconfigured:
                self.close()
                raise PoolTimeout("waiting does not help")
        except PoolTimeout as error:
            told = self._explained(error)
            raise told from told.__cause__

    def getconn(self, timeout: float | None = None) -> CT:
        """Check a connection out; prefer `connection`, which also returns it. See psycopg_pool.

        Each error below is a `CheckoutFailed`, and so a `psycopg_pool.PoolTimeout`.

        Args:
            timeout: how long to wait, in seconds; by default the pool's ``timeout``.

        Raises:
            CheckoutFailed, NoCredentials: there was no connection in time; the message says why.
            ConfigurationError, AccessDenied: there have been no credentials yet, or no connection
                can be opened, and only a person can help.
        """
        try:
            conn = None
            rotation = self._rotation
            if not rotation.must_vet:
                conn = _getconn(self, timeout)  # pyright: ignore[reportArgumentType]
                # The clock: after a suspend the keeper may not have looked yet.
                if self._now() < rotation.trusted_until:
                    return conn  # pyright: ignore[reportReturnType]
            return self._getconn_vetted(timeout, conn)  # pyright: ignore[reportArgumentType]
        except CheckoutFailed:
            raise
        except PoolTimeout as error:
            told = self._explained(error, timeout)
            raise told from told.__cause__

    def putconn(self, conn: CT) -> None:
        """Return a connection taken by `getconn`. See psycopg_pool."""
        # Not getattr() with a default: it costs half as much as the clock does in getconn().
        try:
            stale = conn._lease.generation != self._rotation.serving  # type: ignore[attr-defined]
        except AttributeError:
            stale = True
        if stale:
            self._putconn_stale(conn)
        else:
            try:
                _putconn(self, conn)  # pyright: ignore[reportArgumentType]
            except BaseException:
                finish_return(self, conn)
                raise

    def drain(self) -> None:
        """Replace all connections, whatever their generation. See psycopg_pool."""
        self._refuse_after_fork()
        # Before it is open there is nothing to drain, and psycopg_pool may have no lock yet.
        if self._begun:
            super().drain()

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool. See psycopg_pool."""
        self._refuse_after_fork()
        super().resize(min_size, max_size)

    def check(self) -> None:
        """Replace idle connections that are broken. See psycopg_pool."""
        self._refuse_after_fork()
        super().check()

    def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait until new connections log in with them.

        All pools of the keeper get them, and concurrent calls share one request. Open connections
        are replaced in the background: `PoolStatus.stale` counts those that are left.

        Args:
            timeout: how long to wait, in seconds.

        Returns:
            The grant in use afterwards; the same as before if the provider had no other.

        Raises:
            ProviderError, ConfigurationError: the provider failed. The credentials in use stay.
            NotReady: it took longer than `timeout` and continues in the background; or the pool
                was not opened.
            KeeperClosed: the pool was closed, or belongs to the parent process of a fork.
        """
        return self._keeper.refresh(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool; if its keeper is its own, revoke the lease and close that, too.

        Clients that wait for a connection get a `psycopg_pool.PoolClosed`. The lease is revoked
        when the last borrowed connection is returned, or after `timeout` seconds: then the role
        may be dropped while a connection is in use.

        Returns within about twice `timeout` seconds, also where Vault or PostgreSQL hangs.

        Args:
            timeout: how long to wait for the pool, and then for the keeper, in seconds.
        """
        with self._beginning:
            if self._ended or not self._begun:
                return
            self._ended = True
        # wait() closes the pool before it raises, and should say what was wrong before that.
        self._diagnosis = self._diagnose()
        deadline = monotonic() + timeout
        self._rotation.stop()
        try:
            super().close(close_timeout(self, timeout))
            self._worker.join(max(deadline - monotonic(), 0.0))
            self._worker.do_jobs()
            # Giving the lease back drops the role, and what it runs fails then.
            self._worker.wait_until_returned(max(deadline - monotonic(), 0.0))
        finally:
            # Also if it was interrupted: the lease is revoked in the background then.
            self._leave()
        if self._own_keeper is not None:
            self._own_keeper.close(timeout)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._beginning = threading.Lock()
        if self._begun:
            self._ended = self._abandoned = True
            self._rotation.abandon()
