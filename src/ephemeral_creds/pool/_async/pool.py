"""A psycopg connection pool that moves to new credentials while queries run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import RLock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any  # noqa: F401 - for annotations of psycopg_pool's

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from psycopg_pool.abc import (
    ACT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
)

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.keeper.consumer import Keeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
from ephemeral_creds.keeper.loop import in_thread, require_asyncio
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.observers import Observer
from ephemeral_creds.pool._async.internals import AsyncInternals
from ephemeral_creds.pool._compat import AsyncWakeup, open_at_construction_async
from ephemeral_creds.pool.errors import (
    CheckoutFailed,
    as_checkout_failed,
)
from ephemeral_creds.pool.login import check_parameters
from ephemeral_creds.pool.policy import RotationPolicy
from ephemeral_creds.pool.psycopg_pool_quirks import (
    AT_ONCE,
    close_timeout_async,
    finish_return_async,
)
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["AsyncRotatingConnectionPool"]

# Not super(), whose lookup is a third of what our two cost; looked up once, not at each checkout.
_getconn, _putconn = AsyncConnectionPool.getconn, AsyncConnectionPool.putconn


class AsyncRotatingConnectionPool(AsyncInternals[ACT]):
    """A `psycopg_pool.AsyncConnectionPool` that takes credentials from a provider and rotates.

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

    Open the pool in the event loop that uses it, and
    after a fork, never before: an inherited pool raises `psycopg_pool.PoolClosed`.

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
        conninfo: AsyncConninfoParam = "",
        *,
        refresh: RefreshPolicy | None = None,
        rotation: RotationPolicy | None = None,
        observers: Sequence[Observer] | None = None,
        session_role: str | None = None,
        connection_class: type[ACT] = AsyncConnection,  # type: ignore[assignment]
        kwargs: AsyncKwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool = False,  # noqa: A002 - psycopg_pool's name
        configure: AsyncConnectionCB[ACT] | None = None,
        check: AsyncConnectionCB[ACT] | None = None,
        reset: AsyncConnectionCB[ACT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: AsyncConnectFailedCB | None = None,
        num_workers: int = 3,
    ) -> None:
        # Imported with the first pool, not with the class: they take longer than all the rest.
        from ephemeral_creds.pool._async.connector import AsyncConnector
        from ephemeral_creds.pool._async.worker import AsyncWorker
        from ephemeral_creds.pool.keeper_for import keeper_for
        from ephemeral_creds.pool.rotation import Rotation

        if isinstance(conninfo, str) and not callable(kwargs):
            check_parameters(conninfo, kwargs or {})
        self._keeper, self._own_keeper = keeper_for(credentials, refresh, observers)
        wakeup = AsyncWakeup()
        policy = rotation or RotationPolicy()
        self._rotation: Rotation[ACT] = Rotation(
            policy, RLock, wakeup.wake, checks=check is not None, keeps=self._keeps
        )
        self._now = self._keeper.clock.now
        self._check_error = None
        self._connector = AsyncConnector(
            self,
            connection_class,
            configure,
            self._keeper,
            self._rotation,
            policy.connect_timeout,
            session_role,
            wakeup,
        )
        self._beginning = asyncio.Lock()
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
        self._worker = AsyncWorker(self, self._keeper, self._connector, self._rotation, wakeup)
        register(self)
        if open:
            open_at_construction_async(self)

    # -- psycopg_pool's own methods --------------------------------------------------------

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start to fetch credentials and to connect, in the background.

        With `wait`, raises what `wait` raises, too.

        Args:
            wait: whether to wait for ``min_size`` connections, as `wait` does.
            timeout: how long to wait, in seconds.

        Raises:
            psycopg_pool.PoolClosed: the pool was closed before.
            ConfigurationError: no asyncio event loop runs here. Nothing has been started.
        """
        require_asyncio("AsyncRotatingConnectionPool.open()")
        self._refuse_after_fork()
        async with self._beginning:
            if not self._begun:
                if self._own_keeper is not None:
                    self._own_keeper.start()
                self._rotation.join(*self._keeper.join(self._rotation))
                self._begun = True
            # Also if that failed the last time.
            self._worker.start()
            await super().open(wait=False)
        if wait:
            await self.wait(timeout)

    async def wait(self, timeout: float = 30.0) -> None:
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
                await self._connector.credentials(timeout)
            except EphemeralCredsError as error:
                status = self._keeper.status()
                await self.close()
                raise as_checkout_failed(error, status) from error.__cause__
        try:
            if self.closed or not self._rotation.overview.misconfigured:
                await super().wait(max(deadline - monotonic(), AT_ONCE))
            if self._rotation.overview.misconfigured:
                await self.close()
                raise PoolTimeout("waiting does not help")
        except PoolTimeout as error:
            told = self._explained(error)
            raise told from told.__cause__

    async def getconn(self, timeout: float | None = None) -> ACT:
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
                conn = await _getconn(self, timeout)  # pyright: ignore[reportArgumentType]
                # The clock: after a suspend the keeper may not have looked yet.
                if self._now() < rotation.trusted_until:
                    return conn  # pyright: ignore[reportReturnType]
            return await self._getconn_vetted(timeout, conn)  # pyright: ignore[reportArgumentType]
        except CheckoutFailed:
            raise
        except PoolTimeout as error:
            told = self._explained(error, timeout)
            raise told from told.__cause__

    async def putconn(self, conn: ACT) -> None:
        """Return a connection taken by `getconn`. See psycopg_pool."""
        # Not getattr() with a default: it costs half as much as the clock does in getconn().
        try:
            stale = conn._lease.generation != self._rotation.serving  # type: ignore[attr-defined]
        except AttributeError:
            stale = True
        if stale:
            await self._putconn_stale(conn)
        else:
            try:
                await _putconn(self, conn)  # pyright: ignore[reportArgumentType]
            except BaseException:
                finish_return_async(self, conn)
                raise

    async def drain(self) -> None:
        """Replace all connections, whatever their generation. See psycopg_pool."""
        self._refuse_after_fork()
        # Before it is open there is nothing to drain, and psycopg_pool may have no lock yet.
        if self._begun:
            await super().drain()

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool. See psycopg_pool."""
        self._refuse_after_fork()
        await super().resize(min_size, max_size)

    async def check(self) -> None:
        """Replace idle connections that are broken. See psycopg_pool."""
        self._refuse_after_fork()
        await super().check()

    async def refresh(self, timeout: float = 30.0) -> Grant:
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
        return await in_thread(self._keeper.refresh, timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool; if its keeper is its own, revoke the lease and close that, too.

        Clients that wait for a connection get a `psycopg_pool.PoolClosed`. The lease is revoked
        when the last borrowed connection is returned, or after `timeout` seconds: then the role
        may be dropped while a connection is in use.

        Returns within about twice `timeout` seconds, also where Vault or PostgreSQL hangs.

        Args:
            timeout: how long to wait for the pool, and then for the keeper, in seconds.
        """
        async with self._beginning:
            if self._ended or not self._begun:
                return
            self._ended = True
        # wait() closes the pool before it raises, and should say what was wrong before that.
        self._diagnosis = self._diagnose()
        deadline = monotonic() + timeout
        self._rotation.stop()
        try:
            await super().close(close_timeout_async(self, timeout))
            await self._worker.join(max(deadline - monotonic(), 0.0))
            await self._worker.do_jobs()
            # Giving the lease back drops the role, and what it runs fails then.
            await self._worker.wait_until_returned(max(deadline - monotonic(), 0.0))
        finally:
            # Also if it was interrupted: the lease is revoked in the background then.
            self._leave()
        if self._own_keeper is not None:
            await in_thread(self._own_keeper.close, timeout)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._beginning = asyncio.Lock()
        if self._begun:
            self._ended = self._abandoned = True
            self._rotation.abandon()
