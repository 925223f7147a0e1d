"""The consumer for credentials that other processes log in with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import NoCredentials
from ephemeral_creds.keeper.sessions import inner
from ephemeral_creds.lifecycle.signals import ConsumerReleased, LoginAccepted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.lifecycle.signals import Signal

__all__ = ["Recipient"]


class Recipient:
    """Receives a keeper's credentials for other processes, and holds the old leases for them.

    Those processes report neither which logins are accepted nor when their last session is closed.
    So new credentials are published without proof, unless other consumers prove them, and an old
    lease is kept alive until `release` is called for it, for as long as the server allows.

    Args:
        keeper: where the credentials come from. It has to be started.
        on_change: called when there are other credentials, other deadlines, or none any more, from
            the keeper's thread or from the one that closes the keeper. It has to return at once.

    Raises:
        KeeperClosed: the keeper belongs to the parent process of a fork.
    """

    def __init__(
        self, keeper: CredentialKeeper | AsyncCredentialKeeper, on_change: Callable[[], None]
    ) -> None:
        self.keeper = cast("CredentialKeeper", inner(keeper))
        self._on_change = on_change
        self._number = 0
        self._begin_anew()
        # What the keeper tells meanwhile waits, so that it comes after the grant of now.
        with self._lock:
            self._number, current = self.keeper.join(self)
            if current is not None:
                self._grants[current.generation] = current
        register(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._grants: dict[int, Grant] = {}
        self._retired: set[int] = set()
        self._is_closed = False

    def _after_fork(self) -> None:
        # The leases are the parent's.
        self._begin_anew()
        self._is_closed = True

    @property
    def current(self) -> Grant | None:
        """The newest grant, be it expired or not; ``None`` before the first."""
        with self._lock:
            return self._grants[max(self._grants)] if self._grants else None

    @property
    def old(self) -> tuple[Grant, ...]:
        """The grants that were replaced, are not released and have not expired, oldest first."""
        now = self.keeper.clock.now()
        with self._lock:
            expired = [g for g in self._retired if self._grants[g].lease.expires_at <= now]
        for generation in expired:
            self.release(generation)
        with self._lock:
            return tuple(self._grants[g] for g in sorted(self._retired))

    @property
    def end(self) -> NoCredentials | None:
        """Why there will be no other credentials any more; ``None`` while there may be."""
        try:
            self.keeper.require_running()
        except NoCredentials as error:
            return error
        return None

    def release(self, generation: int) -> None:
        """Have the lease of a replaced grant revoked: no process uses it any more."""
        with self._lock:
            known = generation in self._retired
            self._retired.discard(generation)
            if known:
                del self._grants[generation]
        if known:
            self._signal(ConsumerReleased(self._number, generation))

    def close(self) -> None:
        """Leave the keeper, which revokes what was held. Safe to call twice."""
        with self._lock:
            already, self._is_closed = self._is_closed, True
        if not already:
            self.keeper.leave(self._number)

    def _signal(self, signal: Signal) -> None:
        if not self._is_closed:
            self.keeper.signal(signal)

    def _note(self, grant: Grant, *, only_known: bool = False) -> None:
        with self._lock:
            known = self._grants.get(grant.generation)
            # Two answers may come in the wrong order: the later request counts.
            is_later = known is None or grant.lease.requested_at >= known.lease.requested_at
            if is_later and (known is not None or not only_known):
                self._grants[grant.generation] = grant
        self._on_change()

    # -- what the keeper says; see `Consumer` ------------------------------------------------

    def prove(self, grant: Grant) -> None:
        """Leave the proof to other consumers."""
        with self._lock:
            number = self._number
        self._signal(LoginAccepted(number, grant.generation))

    def publish(self, grant: Grant) -> None:
        """Note that `grant` is in use from now on."""
        self._note(grant)

    def extend(self, grant: Grant) -> None:
        """Note that the deadline of `grant` has moved."""
        self._note(grant, only_known=True)

    def retire(self, grant: Grant) -> None:
        """Note that `grant` was replaced; release it where it was never in use."""
        with self._lock:
            was_used = grant.generation in self._grants
            if was_used:
                self._retired.add(grant.generation)
        if was_used:
            self._on_change()
        else:
            self._signal(ConsumerReleased(self._number, grant.generation))

    def expire(self, grant: Grant) -> None:
        """Note that `grant` is at its deadline."""
        self._note(grant, only_known=True)

    def reclaim(self, grant: Grant) -> None:
        """Do nothing: sessions are the other processes'."""

    def suspect(self, grant: Grant) -> None:
        """Do nothing: sessions are the other processes'."""

    def ask_end(self, grant: Grant) -> None:
        """Do nothing: there is no session to ask in."""

    def failed(self) -> None:
        """Report a change: perhaps there will be no other credentials."""
        self._on_change()
