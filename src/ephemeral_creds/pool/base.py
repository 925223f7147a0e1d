"""What both pools have in common: whatever neither waits nor is awaited."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
import psycopg_pool
from psycopg_pool import PoolClosed
from typing_extensions import deprecated

from ephemeral_creds.exceptions import CredentialsExpired, EphemeralCredsError, NotReady
from ephemeral_creds.pool.errors import as_checkout_failed, explain
from ephemeral_creds.pool.ledger import Borrowed, generation_of
from ephemeral_creds.pool.psycopg_pool_quirks import count_lent, has_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg_pool import PoolTimeout

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.pool.rotation import Rotation
    from ephemeral_creds.pool.shortage import Shortage
    from ephemeral_creds.pool.status import PoolStatus

    class _PsycopgPool:
        """What is needed of `psycopg_pool`'s pools, whose own base is not public."""

        name: str
        num_workers: int

        @property
        def closed(self) -> bool: ...
        def get_stats(self) -> dict[str, int]: ...
        def pop_stats(self) -> dict[str, int]: ...

else:
    _PsycopgPool = object

__all__ = ["LeasedPool", "borrowed_here", "has_moved"]

# Where a checkout passes on its way into the pool.
_INNER = (
    f"{Path(__file__).parent}{os.sep}",
    f"{Path(psycopg_pool.__file__).parent}{os.sep}",
    f"{Path(psycopg.__file__).parent}{os.sep}",
    contextlib.__file__,
)


def borrowed_here(now: float) -> Borrowed:
    """Describe the caller of the pool: the innermost frame that is not of a library."""
    frames = reversed(traceback.extract_stack())
    frame = next((f for f in frames if not f.filename.startswith(_INNER)), None)
    where = f"{frame.filename}:{frame.lineno} in {frame.name}" if frame else "unknown"
    return Borrowed(now, where)


class LeasedPool(_PsycopgPool):
    """A pool whose connections are of generations; a base beside one of psycopg_pool's."""

    _keeps: ClassVar[bool] = True
    """Whether connections stay open while idle."""

    _keeper: Keeper
    _own_keeper: CredentialKeeper | None
    _begun: bool
    _ended: bool
    _abandoned: bool
    _rotation: Rotation[Any]
    _connector: Any
    _check_error: str | None
    _diagnosis: tuple[KeeperStatus, EphemeralCredsError | None, Shortage] | None

    def get_stats(self) -> dict[str, int]:
        """Return psycopg_pool's counters, and those of the credentials.

        They do not count what rotations do. Added are ``lease_generation``,
        ``lease_expires_in`` (whole seconds; absent if there is no end), ``lease_mints``,
        ``lease_renewals``, ``lease_revocations``, ``lease_rejected_logins`` and, for connections
        that wait to be replaced, ``connections_stale``.
        """
        return super().get_stats() | self._lease_stats()

    def pop_stats(self) -> dict[str, int]:
        """Return the counters as `get_stats` does, and set psycopg_pool's own to zero."""
        return super().pop_stats() | self._lease_stats()

    def _lease_stats(self) -> dict[str, int]:
        from ephemeral_creds.pool.status import lease_stats

        return lease_stats(self._rotation, self._keeper)

    def status(self) -> PoolStatus:
        """Return a snapshot for a health endpoint or a person; see `PoolStatus.ready`."""
        from ephemeral_creds.pool.status import pool_status

        return pool_status(
            self.name, self.closed, self._rotation, self._keeper, super().get_stats()
        )

    def verify_connections(self) -> None:
        """Have each connection tested before it is lent: the role may have been dropped.

        A session outlives its role (see DROP ROLE): it still answers ``SELECT 1``, but not
        ``SELECT current_user``. The first connection that answers this ends the tests. One that
        does not is replaced; if its role is gone, the pool also asks for new credentials. The
        tests cost a round trip per checkout.

        The pool itself calls this when a login is refused, when a lease is lost, and when a query
        fails with 42501 or 42704, as without a role. A missing GRANT and row-level security cause
        these codes too, and one test each.
        """
        self._rotation.suspect_generation(self._rotation.serving)

    def is_stale(self, connection: object) -> bool:
        """Tell whether newer credentials are in use than those of a borrowed connection.

        What borrows one for long asks this, and `needs_test`, between two pieces of work: return
        it and borrow another. The old lease is revoked when its last connection was returned.
        """
        return self._rotation.is_stale(connection)

    def needs_test(self, connection: object) -> bool:
        """Tell whether the role of a borrowed connection may be gone; see `verify_connections`.

        Return it: the pool tests what it lends next.
        """
        now, rotation = self._keeper.clock.now(), self._rotation
        if now < rotation.trusted_until:
            return False
        rotation.suspect_expired(now)
        return rotation.is_suspect(generation_of(connection))

    @deprecated("suspect() is now verify_connections()")
    def suspect(self) -> None:
        """Do what `verify_connections` does; this is its old name."""
        self.verify_connections()

    def __repr__(self) -> str:
        if not hasattr(self, "name"):
            # Its constructor has failed, and what reports that may look at it.
            return f"<{type(self).__name__} not made>"
        return super().__repr__()

    def __del__(self) -> None:
        # The keeper was closed before, and threads can no longer be woken or joined: Python 3.14
        # refuses to, and gevent's threads do.
        if sys.is_finalizing():
            return
        # What __init__() sets last: if it failed, nothing was begun.
        if hasattr(self, "_worker"):
            self._rotation.stop()
            if self._begun and not self._ended:
                self._leave()
            if self._abandoned:
                # Its threads, and the holders of its locks, stayed in the parent.
                return
        # psycopg_pool's for threads has one, its other has none.
        delete = getattr(super(), "__del__", None)
        if delete is not None:
            delete()

    def on_connect(self, callback: Callable[[float], None]) -> None:
        """Call `callback` with the duration of each successful connect, in seconds.

        It is called by the thread or in the event loop that has connected, without ``configure``
        in the duration. It has to return at once, and must not raise.
        """
        self._connector.on_connect.append(callback)

    @property
    def keeper(self) -> Keeper:
        """The keeper that its credentials come from: its own, or a shared one.

        Give it to another pool to have both rotate together. Its `wait` and `refresh` block: in an
        event loop, use those of the pool.
        """
        return self._keeper

    @property
    def peak_connections(self) -> int:
        """The most connections that were ever open, or being opened, at the same time."""
        return self._rotation.overview.peak

    def _leave(self) -> None:
        """Tell the keeper that every connection is closed, and its own to close, too."""
        self._keeper.leave(self._rotation.consumer)
        if self._own_keeper is not None:
            self._own_keeper.close_later()

    @property
    def _may_begin(self) -> bool:
        """Whether the first credentials may come without a person's help."""
        try:
            self._keeper.wait(0.0)
        except (NotReady, CredentialsExpired):
            return True
        except EphemeralCredsError:
            return False
        return True

    def _refuse_after_fork(self) -> None:
        """Raise where the sockets are the parent's, and what is waited for never comes."""
        if self._abandoned:
            raise PoolClosed(
                "this pool was opened before the process was forked: its connections and its "
                "lease are the parent's. Open pools after the fork, for example in gunicorn's "
                "post_fork hook"
            )

    def _explained(self, timeout: PoolTimeout, seconds: float | None = None) -> PoolTimeout:
        status, lacking, where = self._diagnosis or self._diagnose()
        if lacking is not None:
            return as_checkout_failed(lacking, status)
        failure = self._rotation.overview.failure
        where = replace(where, hurried=seconds is not None and seconds <= 0)
        error = explain(self.name, timeout, failure, status, where)
        error.__cause__ = error.last_error
        return error

    def _diagnose(self) -> tuple[KeeperStatus, EphemeralCredsError | None, Shortage]:
        from ephemeral_creds.pool.shortage import shortage

        status = self._keeper.status()
        lent = count_lent(self._rotation.open_connections())
        where = shortage(
            self._rotation.overview, super().get_stats(), lent, self.num_workers, monotonic()
        )
        where = replace(where, check_error=self._check_error)
        try:
            self._keeper.wait(0.0)
        except EphemeralCredsError as error:
            return status, error, where
        return status, None, where


def has_moved(pool: LeasedPool, generation: int) -> bool:
    """Tell whether all that is idle in `pool` is of `generation`, or later."""
    rotation = pool._rotation  # noqa: SLF001 - the same module
    return rotation.serving >= generation and not has_idle(cast("Any", pool), rotation.is_stale)
