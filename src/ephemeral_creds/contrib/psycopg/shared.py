"""The sessions that connections with the same keeper and parameters share."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ephemeral_creds._fork import register
from ephemeral_creds.contrib._login import new_diagnosis, reject
from ephemeral_creds.exceptions import CredentialsExpired, KeeperClosed, NotReady
from ephemeral_creds.keeper.sessions import Sessions, inner
from ephemeral_creds.pool._sync.session import login
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.keeper.session import Session

__all__ = ["SessionLease", "SharedSessions", "is_stale", "require_open", "share"]

# Seconds for a login that proves new credentials, if the conninfo has no connect_timeout.
_CONNECT_TIMEOUT = 10
# How many of a keeper's consumers without a connection to keep. Each costs a login per rotation;
# a program connects to one database, or a few.
_KEPT = 4


@dataclass(frozen=True, eq=False, slots=True)
class SessionLease:
    """All that is ours on a user's connection: its attribute ``_lease``.

    Attributes:
        session: what the keeper counts.
        end: called, as often as one likes, when the connection is closed.
    """

    session: Session
    end: Callable[[], object]

    @property
    def generation(self) -> int:
        """What it logged in with."""
        return self.session.generation


class SharedSessions:
    """One consumer for all connections of a keeper with the same parameters.

    Args:
        keeper: where the credentials come from.
        conninfo: the parameters, without user and password.

    Attributes:
        users: how many connections are open, or being opened.
    """

    def __init__(self, keeper: Keeper, conninfo: str) -> None:
        self.keeper = keeper
        self.conninfo = conninfo
        self.diagnosis = new_diagnosis(_CONNECT_TIMEOUT)
        self.users = 0
        self.sessions = Sessions(keeper, self._prove)

    def leave(self) -> None:
        """There is one connection less."""
        _registry.leave(self)

    def _prove(self, session: Session) -> None:
        limit = {"connect_timeout": _CONNECT_TIMEOUT} | conninfo_to_dict(self.conninfo)
        outcome = login(psycopg.connect, "", limit, session.grant, self.diagnosis)
        if isinstance(outcome, ConnectFailure):
            reject(session, outcome)
        else:
            session.accepted()
            outcome.close()


class _Registry:
    """What is shared, by keeper and parameters, until the keeper is closed.

    A consumer stays between two connections: it proves new credentials, and the keeper knows that
    it was let in before. Of those without a connection, the last few are kept.
    """

    def __init__(self) -> None:
        self._begin()
        register(self)

    def _begin(self) -> None:
        # Reentrant: a collection while it is held may close a connection that was forgotten.
        self._lock = threading.RLock()
        self._shared: dict[Keeper, dict[str, SharedSessions]] = {}

    def _after_fork(self) -> None:
        # Another thread of the parent may hold the lock; the connections are the parent's.
        self._begin()

    def join(self, keeper: Keeper, conninfo: str) -> SharedSessions:
        """Return the consumer for one more connection."""
        with self._lock:
            is_new = keeper not in self._shared
            known = self._shared.get(keeper, {})
            shared = known.pop(conninfo, None) or SharedSessions(keeper, conninfo)
            found = self._shared.setdefault(keeper, {})
            found[conninfo] = shared  # the last one
            shared.users += 1
            idle = [each for each in found.values() if not each.users]
            dropped = idle[: max(len(idle) - _KEPT, 0)]
            for each in dropped:
                del found[each.conninfo]
        if is_new:
            keeper.on_change(partial(self._forget_if_closed, keeper))
        for each in dropped:
            each.sessions.close()
        return shared

    def leave(self, shared: SharedSessions) -> None:
        """Note that it has one connection less."""
        with self._lock:
            shared.users -= 1
            is_dropped = self._shared.get(shared.keeper, {}).get(shared.conninfo) is not shared
            is_last = is_dropped and not shared.users
        if is_last:
            shared.sessions.close()

    def of(self, keeper: Keeper) -> dict[str, int]:
        """Return how many connections there are by parameters, for tests."""
        with self._lock:
            return {c: each.users for c, each in self._shared.get(keeper, {}).items()}

    def _forget_if_closed(self, keeper: Keeper) -> None:
        try:
            require_open(keeper)
        except KeeperClosed:
            with self._lock:
                found = self._shared.pop(keeper, {})
            for each in found.values():
                if not each.users:
                    each.sessions.close()


_registry = _Registry()


def share(keeper: Keeper | AsyncCredentialKeeper, conninfo: str) -> SharedSessions:
    """Return the sessions for one more connection; call their `leave` when it has ended.

    Raises:
        KeeperClosed: the keeper belongs to the parent process of a fork.
    """
    return _registry.join(inner(keeper), conninfo)


def require_open(keeper: Keeper) -> None:
    """Raise `KeeperClosed` if `keeper` was closed, be it that it revokes still."""
    check: Callable[[], object] = getattr(keeper, "require_running", keeper.current)
    with contextlib.suppress(NotReady, CredentialsExpired):
        check()


def is_stale(connection: object) -> bool:
    """Tell whether newer credentials than those of `connection` are in use.

    Close it soon, when it is idle, and connect again: the old lease is revoked when its last
    connection is closed, and ends at its deadline in any case. Of a connection that is none of
    `connect` and `aconnect` it is never true; ask the pool of a pool's.
    """
    lease: object = getattr(connection, "_lease", None)
    return isinstance(lease, SessionLease) and lease.session.is_stale
