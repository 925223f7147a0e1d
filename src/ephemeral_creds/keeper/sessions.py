"""The sessions of a driver or pool that is not ours, as a consumer of a keeper."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING, cast

from ephemeral_creds._fork import register
from ephemeral_creds.exceptions import CredentialsExpired, KeeperClosed, NotReady
from ephemeral_creds.keeper.loop import in_thread
from ephemeral_creds.keeper.session import Session
from ephemeral_creds.keeper.trust import Trust
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    ConsumerReleased,
    EndLearned,
    LoginAccepted,
    LoginRejected,
    Tick,
)
from ephemeral_creds.observers import logger, where_raised

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.lifecycle.signals import Signal

__all__ = ["Sessions", "inner"]


def inner(keeper: Keeper | AsyncCredentialKeeper) -> Keeper:
    """Return the keeper that one for asyncio is the face of, or `keeper` itself."""
    found: object = getattr(keeper, "keeper", keeper)
    return cast("Keeper", found)


class Sessions:
    """The sessions that a driver, or a pool that is not ours, opens with a keeper's credentials.

    Counts them by generation, so that an old lease is revoked as soon as its last session is
    closed, and tells the keeper which logins are accepted. ``with`` closes it.

    Args:
        keeper: where the credentials come from. It has to be started.
        prove: called with a `Session` of new credentials, in a thread of its own: log in with
            them, tell the session whether that was accepted, and close it. It may block; until
            PostgreSQL has accepted new credentials, those in use stay in use.
        on_change: called when sessions may have become stale, overdue or in need of a test. From
            the keeper's thread: it has to return at once, and to work without a lock that is held
            while a method of this class is called.

    Attributes:
        reclaimed_through: the last generation whose sessions are overdue; see `Session.is_overdue`.

    Raises:
        KeeperClosed: the keeper belongs to the parent process of a fork.
    """

    def __init__(
        self,
        keeper: Keeper | AsyncCredentialKeeper,
        prove: Callable[[Session], None],
        *,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.reclaimed_through = 0
        self._keeper = inner(keeper)
        self._number = 0
        self._prove = prove
        self._on_change = on_change
        self._begin_again()
        # The keeper may ask for a login before it has said by which number it knows the answer.
        with self._lock:
            self._number, current = self._keeper.join(self)
        if current is not None:
            self.publish(current)
        register(self)

    def _begin_again(self) -> None:
        # Reentrant: a collection while it is held may close a session that was forgotten.
        self._lock = threading.RLock()
        self._counts: Counter[int] = Counter()
        self._retiring: set[int] = set()
        self._trust = Trust(always_vet=False)
        self._accepted = self._end_asked = 0
        self._is_closed = False

    def _after_fork(self) -> None:
        # Open sessions are the parent's: here they are stale, and their end is not reported.
        self._begin_again()
        self._is_closed = True

    # -- for the driver --------------------------------------------------------------------

    @property
    def keeper(self) -> Keeper:
        """Where the credentials come from."""
        return self._keeper

    @property
    def serving(self) -> int:
        """The generation that new sessions log in with; 0 before the first."""
        return self._keeper.generation

    @property
    def open(self) -> dict[int, int]:
        """How many sessions are open or logging in, by generation."""
        with self._lock:
            return dict(self._counts)

    @property
    def stale(self) -> int:
        """How many sessions are open of generations before the one in use."""
        with self._lock:
            return sum(n for g, n in self._counts.items() if g < self.serving)

    def begin(self, timeout: float = 30.0) -> Session:
        """Return a session to log in with, which counts from now on.

        Args:
            timeout: seconds to wait for credentials.

        Raises:
            NoCredentials, ConfigurationError, AccessDenied: there were none in time, as
                `CredentialKeeper.wait` raises it.
            KeeperClosed: this was closed, or belongs to the parent process of a fork.
        """
        while True:
            grant = self._keeper.wait(timeout)
            with self._lock:
                if self._is_closed:
                    raise KeeperClosed(
                        f"the sessions of the keeper {self._keeper.name!r} are closed: they were "
                        "closed by this process, or opened before it was forked"
                    )
                # Or it was overtaken meanwhile.
                if grant.generation >= self.serving:
                    return self._begin(grant)

    async def begin_async(self, timeout: float = 30.0) -> Session:
        """Do what `begin` does, without blocking the event loop."""
        try:
            return self.begin(0.0)
        except (NotReady, CredentialsExpired):
            return await in_thread(self.begin, timeout)

    def _begin(self, grant: Grant) -> Session:
        generation = grant.generation
        self._counts[generation] += 1
        wants_end = grant.lease.duration == math.inf and generation > self._end_asked
        self._end_asked = max(self._end_asked, generation if wants_end else 0)
        return Session(self, grant, wants_end=wants_end)

    def is_stale(self, generation: int) -> bool:
        """Tell whether sessions of `generation` are to be closed; see `Session.is_stale`."""
        return generation < self._keeper.generation or self._is_closed

    def needs_test(self, generation: int) -> bool:
        """Tell whether the role of `generation` may be gone; see `Session.needs_test`."""
        if self._keeper.clock.now() < self._trust.until:
            return False
        with self._lock:
            expired = self._trust.expired(self._keeper.clock.now())
            if expired:
                # After a suspend the keeper's thread may sleep for some more seconds.
                self._trust.expire(expired)
                self._suspect(expired)
        if expired:
            self._signal(Tick())
        return self._trust.is_suspect(generation)

    def verify(self) -> None:
        """Have all open sessions tested: a query has failed as if their role were gone.

        Call it for the codes 42501 and 42704; see `RotatingConnectionPool.verify_connections`.
        """
        with self._lock:
            self._suspect(self.serving)

    def close(self) -> None:
        """Let go of the keeper: all sessions are closed, and none is opened any more."""
        with self._lock:
            already, self._is_closed = self._is_closed, True
        if not already:
            self._keeper.leave(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for `Session` ---------------------------------------------------------------------

    def accept(self, session: Session) -> None:
        """Note that a login was accepted."""
        with self._lock:
            session.state = "open"
            first = session.generation > self._accepted
            self._accepted = max(self._accepted, session.generation)
        # A candidate's proof is asked for by number, and more than once.
        if first or session.generation > self.serving:
            self._signal(LoginAccepted(self._number, session.generation))

    def reject(self, session: Session, reason: LoginFailure, sqlstate: str | None) -> None:
        """Note that a login failed."""
        generation = session.generation
        with self._lock:
            if reason is LoginFailure.CREDENTIALS and generation <= self.serving:
                # Open sessions of the same role may be dead without knowing.
                self._suspect(generation)
        self._signal(LoginRejected(self._number, generation, reason, sqlstate))
        self.end(session)

    def note_test(self, session: Session, *, alive: bool) -> None:
        """Note whether the role of a session still exists."""
        if not alive:
            self._signal(
                LoginRejected(self._number, session.generation, LoginFailure.CREDENTIALS, None)
            )
            return
        with self._lock:
            self._trust.clear(session.generation)

    def learn_end(self, session: Session, remaining: float | None) -> None:
        """Note how long a role can log in."""
        self._signal(EndLearned(session.generation, math.inf if remaining is None else remaining))

    def end(self, session: Session) -> None:
        """Note that a session was closed, or was never opened."""
        with self._lock:
            if session.state == "closed":
                return
            session.state = "closed"
            if self._counts[session.generation] > 0:
                self._counts[session.generation] -= 1
        self._release()

    def _release(self) -> None:
        """Tell what there is no session of any more."""
        with self._lock:
            self._counts = +self._counts
            released = sorted(g for g in self._retiring if g not in self._counts)
            self._retiring.difference_update(released)
            self._trust.forget(self.serving, self._counts)
        for generation in released:
            self._signal(ConsumerReleased(self._number, generation))

    def _suspect(self, generation: int) -> None:
        found = (*self._counts, self.serving)
        self._trust.suspect(g for g in found if 0 < g <= generation)

    def _signal(self, signal: Signal) -> None:
        if not self._is_closed:
            self._keeper.signal(signal)

    # -- what the keeper says; see `Consumer` ------------------------------------------------

    def prove(self, grant: Grant) -> None:
        """Have `prove=` log in with `grant`, in the background."""
        self._log_in(grant)

    def publish(self, grant: Grant) -> None:
        """Have new sessions log in with `grant` from now on."""
        with self._lock:
            self._trust.learn(grant)
        self._changed()

    def extend(self, grant: Grant) -> None:
        """Note that the deadline of `grant` has moved."""
        with self._lock:
            if self._trust.knows(grant.generation):
                self._trust.learn(grant)

    def retire(self, grant: Grant) -> None:
        """Have sessions of `grant` closed as they come back."""
        with self._lock:
            self._retiring.add(grant.generation)
        self._release()
        self._changed()

    def expire(self, grant: Grant) -> None:
        """Note that `grant` is at its deadline."""
        with self._lock:
            self._trust.expire(grant.generation)
            self._suspect(grant.generation)
        self._changed()

    def reclaim(self, grant: Grant) -> None:
        """Note that the time of sessions of `grant` that are still open is up."""
        if grant.generation < self.serving:
            self.reclaimed_through = max(self.reclaimed_through, grant.generation)
        self.expire(grant)

    def suspect(self, grant: Grant) -> None:
        """Have sessions of `grant` tested before they are used again."""
        with self._lock:
            self._suspect(grant.generation)
        self._changed()

    def ask_end(self, grant: Grant) -> None:
        """Have `prove=` log in with `grant` and ask how long that is possible."""
        with self._lock:
            self._end_asked = min(self._end_asked, grant.generation - 1)
        self._log_in(grant)

    def failed(self) -> None:
        """Do nothing: who waits for credentials waits in `begin`, for the keeper itself."""

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _log_in(self, grant: Grant) -> None:
        with self._lock:
            session = self._begin(grant)
        thread = threading.Thread(
            target=self._run_proof, args=(session,), name=f"{self._keeper.name}-proof", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No further thread: as if the server had not answered.
            self.reject(session, LoginFailure.UNREACHABLE, None)

    def _run_proof(self, session: Session) -> None:
        try:
            self._prove(session)
        except BaseException as error:  # noqa: BLE001 - it must be answered, whatever it was
            logger.warning(
                "%s: the login that was to prove generation %d failed: %s",
                self._keeper.name,
                session.generation,
                where_raised(error),
            )
        # Whatever it has not said by now it does not know.
        if session.state == "new":
            self.reject(session, LoginFailure.UNREACHABLE, None)
        self.end(session)
