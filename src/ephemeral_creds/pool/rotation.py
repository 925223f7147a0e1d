"""What a pool knows about generations, and what remains to be done: state without I/O.

Both pools, sync and async, drive one `Rotation` each. It is the keeper's `Member`: the keeper's
thread writes down what it wants here, and the pool's own threads or tasks do it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ephemeral_creds.events import BorrowedAtDeadline, PoolRotated, ValidUntilPassed
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerReleased,
    EndLearned,
    LoginAccepted,
    LoginRejected,
    Tick,
)
from ephemeral_creds.pool.ledger import Ledger
from ephemeral_creds.pool.login import ConnectFailure, generation_of
from ephemeral_creds.pool.openings import Openings
from ephemeral_creds.pool.reconnects import Reconnects
from ephemeral_creds.pool.replacements import Replacements

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.events import Event
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.pool.policy import RotationPolicy

__all__ = ["Rotation"]

T = TypeVar("T")

# While old connections are borrowed, one that was closed without a word is looked for this often.
_LOOK_AGAIN = 0.5


def _nothing() -> None:
    pass


class Rotation(Generic[T]):
    """The state of one pool's move from generation to generation.

    Args:
        keeper: to be told what happens.
        policy: how many connections to open ahead, and how long to wait.
        checks: whether a function of the user's looks at each connection before it is lent.
        wake: called, from any thread and with no lock held, when there may be work.

    Attributes:
        serving: the generation that new connections log in with; 0 before the first.
        must_vet: whether a checkout has more to do than psycopg_pool's own.
        trusted_until: the instant, on the keeper's clock, from which it has: the first deadline
            of a generation that connections are open of; ``-inf`` where that is now.
        now: reads that clock.
        idle_hint: changes whenever an old connection may have become idle.
        cut_off: how many connections were cut off at their deadline.
        check_error: what the user's ``check=`` failed with, if it failed last.
    """

    def __init__(
        self,
        keeper: Keeper,
        policy: RotationPolicy,
        wake: Callable[[], None],
        *,
        checks: bool = False,
    ) -> None:
        self.serving = 0
        self.must_vet = True
        self.trusted_until = -math.inf
        self.now = keeper.clock.now
        self.idle_hint = 0
        self.cut_off = 0
        self.check_error: str | None = None
        self.stopped = False
        self.policy = policy
        self.wake = wake
        self.ledger: Ledger[T] = Ledger()
        self.openings = Openings()
        self.replacements: Replacements[T] = Replacements(policy.overshoot)
        self.reconnects = Reconnects(policy)
        self._keeper = keeper
        self._lock = threading.RLock()  # as in `Ledger`
        self._number = 0
        self._candidates: deque[Grant] = deque()
        self._questions: deque[Grant] = deque()
        self._end_asked = 0
        self._refused_early: dict[int, float] = {}
        self._valid_until_passed: ValidUntilPassed | None = None
        self._retiring: set[int] = set()
        self._expiring: deque[Grant] = deque()
        self._accepted = 0
        self._suspects: set[int] = set()
        self._leases: dict[int, Lease] = {}
        self._expired_through = self._disruptions = 0
        self._moving_since: float | None = None
        self._moved = 0
        self._own_checkouts = 0
        self._checks = checks

    def join(self) -> None:
        """Become a member of the keeper."""
        self._number, current = self._keeper.join(self)
        if current is not None:
            self.publish(current)

    def leave(self, *, close_keeper: bool = False) -> None:
        """Tell the keeper that every connection is closed, and perhaps to close, too."""
        self._keeper.leave(self._number)
        if close_keeper:
            self._keeper.signal(Close())

    def stop(self) -> None:
        """Nothing is to be done any more. Takes no lock, so that a finaliser may call it."""
        self.stopped = True
        self.wake()

    def abandon(self) -> None:
        """Start from nothing in the child of a fork, where all of this is the parent's.

        The parent's threads may have held the locks at the instant of the fork.
        """
        self.stopped, self.serving, self.wake = True, 0, _nothing
        self._lock = threading.RLock()  # as in `Ledger`
        self._leases, self.must_vet, self.trusted_until = {}, True, -math.inf
        self.ledger, self.openings = Ledger(), Openings()
        self.replacements = Replacements(self.policy.overshoot)
        self.reconnects = Reconnects(self.policy)

    # -- what the keeper says; see `Member` ------------------------------------------------

    def prove(self, grant: Grant) -> None:
        """Have the pool log in once with `grant`."""
        with self._lock:
            # It is asked for again where the answer takes long.
            if all(queued.generation != grant.generation for queued in self._candidates):
                self._candidates.append(grant)
        self.wake()

    def publish(self, grant: Grant) -> None:
        """Have the pool log in with `grant` from now on."""
        with self._lock:
            self._disruptions += 0 < self.serving < grant.generation
            self.serving = max(self.serving, grant.generation)
            self.idle_hint += 1
            self._note_lease(grant)
        self.reconnects.renewed(grant.generation)
        self.wake()

    def extend(self, grant: Grant) -> None:
        """Note that the deadline of `grant` has moved."""
        with self._lock:
            if grant.generation in self._leases:
                self._note_lease(grant)

    def _note_lease(self, grant: Grant) -> None:
        known = self._leases.setdefault(grant.generation, grant.lease)
        if grant.lease.requested_at >= known.requested_at:
            self._leases[grant.generation] = grant.lease
        if grant.generation == self._expired_through:
            # It was renewed after all: one test tells.
            self._expired_through = 0
        self._update_trust()

    def retire(self, grant: Grant) -> None:
        """Have the pool replace its connections of `grant`."""
        with self._lock:
            self._retiring.add(grant.generation)
            queued = [c for c in self._candidates if c.generation != grant.generation]
            self._candidates = deque(queued)
        self.wake()

    def expire(self, grant: Grant) -> None:
        """Note that `grant` is at its deadline."""
        with self._lock:
            self._expired_through = max(self._expired_through, grant.generation)
        self.suspect(grant)

    def reclaim(self, grant: Grant) -> None:
        """Note that the time of what is borrowed of `grant` is up."""
        # A candidate that was given up has nothing borrowed.
        if grant.generation < self.serving:
            self._expiring.append(grant)
        self.expire(grant)

    def suspect(self, grant: Grant) -> None:
        """Have connections of `grant` tested before they are lent."""
        self.suspect_generation(grant.generation)

    def ask_end(self, grant: Grant) -> None:
        """Have the pool ask how long `grant` can log in."""
        with self._lock:
            self._end_asked = min(self._end_asked, grant.generation - 1)
        self._questions.append(grant)
        self.wake()

    def failed(self) -> None:
        """Have whoever waits for credentials ask the keeper again: it may raise by now."""
        self.wake()

    # -- logins ----------------------------------------------------------------------------

    def wants_end(self, grant: Grant) -> bool:
        """Tell whether this login should ask how long `grant` can log in: one of each does."""
        if grant.lease.duration < math.inf or grant.generation <= self._end_asked:
            return False
        with self._lock:
            first = grant.generation > self._end_asked
            self._end_asked = max(self._end_asked, grant.generation)
            return first

    def note_answer(self, generation: int, outcome: T | ConnectFailure) -> None:
        """A login for the sake of the question has ended."""
        self.replacements.cancel()
        if isinstance(outcome, ConnectFailure):
            self._keeper.signal(self._rejected(generation, outcome))

    def _rejected(self, generation: int, failure: ConnectFailure) -> LoginRejected:
        reason = failure.reason or LoginFailure.UNREACHABLE  # it says as little of the credentials
        return LoginRejected(self._number, generation, reason, failure.sqlstate)

    def note_end(self, generation: int, remaining: float | None) -> None:
        """PostgreSQL has answered: `remaining` seconds; ``None`` for no limit."""
        self._keeper.signal(EndLearned(generation, math.inf if remaining is None else remaining))

    def next_question(self) -> Grant | None:
        """Take a grant to log in with for the sake of the question.

        As with a candidate, a connection has been reserved, and its login begun.
        """
        while self._questions:
            if self._questions[0].generation <= max(self.serving - 1, self._end_asked):
                self._questions.popleft()  # overtaken, or asked by another login meanwhile
            elif self.replacements.reserve():
                grant = self._questions.popleft()
                self.ledger.opening(grant.generation)
                return grant
            else:
                break
        return None

    def begin_login(self, generation: int) -> bool:
        """Write down that a login with `generation` is about to start, unless it was overtaken.

        Looking comes after writing down: a generation that is overtaken later is not released
        before the login has ended.
        """
        self.ledger.opening(generation)
        if overtaken := generation < self.serving:
            self.ledger.failed(generation)
        return not overtaken

    def note_success(self, generation: int) -> None:
        """A login succeeded."""
        retries_due = self.reconnects.succeeded()
        with self._lock:
            first = generation > self._accepted
            self._accepted = max(self._accepted, generation)
            stale = generation < self.serving
            self.idle_hint += stale
        if first:
            self._keeper.signal(LoginAccepted(self._number, generation))
        if retries_due or stale:
            self.wake()

    def note_failure(self, failure: ConnectFailure, now: float, generation: int = 0) -> None:
        """A connect failed.

        Args:
            failure: why.
            now: the instant of the failure.
            generation: what it logged in with; 0 where there was nothing to log in with.
        """
        if generation and failure.refused:
            failure = self._note_refusal(failure, generation)
        self.reconnects.failed(failure, generation or self.serving, now)
        if generation:
            self._keeper.signal(self._rejected(generation, failure))

    def _note_refusal(self, failure: ConnectFailure, generation: int) -> ConnectFailure:
        """Have open sessions of the same role asked why, or say what one of them has answered."""
        self.suspect_generation(generation)
        answer = self._valid_until_passed
        if answer is not None and answer.generation == generation:
            return failure.with_hint(answer.remedy)
        status = self._keeper.status()
        remaining = status.expires_in or 0.0
        if status.generation == generation and remaining > 0.0:
            self._refused_early = {generation: remaining}
        return failure

    def wants_valid_until(self, generation: int) -> bool:
        """Tell whether PostgreSQL refuses the role although its lease has time left."""
        return generation in self._refused_early

    def note_valid_until(self, generation: int, remaining: float | None) -> None:
        """PostgreSQL lets the role log in for `remaining` seconds more; ``None`` for no limit."""
        expires_in = self._refused_early.pop(generation, None)
        if expires_in is None or remaining is None or remaining > 0.0:
            return
        self._valid_until_passed = answer = ValidUntilPassed(
            generation=generation, ends_in=remaining, expires_in=expires_in
        )
        self.reconnects.explained(answer.remedy)
        self._keeper.report(answer)

    @property
    def misconfigured(self) -> bool:
        """Whether no connection is open, or about to be, because of what only a person can mend."""
        failure = self.reconnects.last_failure
        return failure is not None and failure.hopeless and not self.ledger.size

    def note_proof(self, generation: int, outcome: T | ConnectFailure, now: float) -> None:
        """A candidate was tried out. It failing bars nothing: nothing else uses it."""
        if isinstance(outcome, ConnectFailure):
            self.replacements.cancel()
            self._keeper.signal(self._rejected(generation, outcome))
        else:
            self.replacements.add(outcome, now + self.policy.park)
            self._keeper.signal(LoginAccepted(self._number, generation))

    def next_candidate(self) -> Grant | None:
        """Take a grant to prove; those that were overtaken are skipped.

        The connection to try it with is one opened ahead. It has been reserved, and its login
        begun.
        """
        while self._candidates:
            if not self.replacements.reserve():
                return None
            with self._lock:
                grant = self._candidates.popleft() if self._candidates else None
            if grant is not None and grant.generation > self.serving:
                self.ledger.opening(grant.generation)
                return grant
            self.replacements.cancel()
        return None

    # -- connections that may be dead without knowing --------------------------------------

    def suspect_generation(self, generation: int) -> None:
        """Have connections up to `generation` tested before they are lent."""
        open_ones = self.ledger.by_generation()
        with self._lock:
            self._suspects.update(g for g in (*open_ones, self.serving) if 0 < g <= generation)
            self._update_trust()
        self.wake()

    def suspect_expired(self) -> None:
        """Have what is past its deadline tested, although the keeper has not spoken yet.

        After a suspend its thread may go on sleeping for some seconds; it is woken.
        """
        now = self.now()
        with self._lock:
            late = [g for g, lease in self._leases.items() if lease.expires_at <= now]
            expired = max((g for g in late if g not in self._suspects), default=0)
            self._expired_through = max(self._expired_through, expired)
        if expired:
            self.suspect_generation(expired)
            self._keeper.signal(Tick())

    def is_suspect(self, generation: int) -> bool:
        """Tell whether a connection of `generation` has to be tested before it is lent."""
        return generation in self._suspects

    def note_test(self, generation: int, *, alive: bool) -> None:
        """A suspect connection was tested.

        One that is alive clears its generation, unless that is past its deadline: then the server
        may drop the role at any time.
        """
        with self._lock:
            if alive and generation > self._expired_through:
                self._suspects.discard(generation)
                self._update_trust()
            self._disruptions += not alive
        if not alive:
            self._keeper.signal(LoginRejected(self._number, generation, LoginFailure.CREDENTIALS))

    @property
    def disruptions(self) -> int:
        """Grows whenever a query may have failed because of its connection's generation.

        That is, when a role was replaced or found to be gone, or a connection of one that has
        been replaced came back.
        """
        return self._disruptions

    def note_stale_return(self) -> None:
        """A connection of an old generation came back."""
        with self._lock:
            self._disruptions += 1

    def note_cut_off(self) -> None:
        """A borrowed connection is about to be cut off."""
        with self._lock:
            self.cut_off += 1

    def _update_trust(self) -> None:
        more_to_do = self._checks or self.policy.trace_borrowers
        self.must_vet = self.serving == 0 or bool(self._suspects) or more_to_do
        ends = [lease.expires_at for g, lease in self._leases.items() if g not in self._suspects]
        self.trusted_until = -math.inf if self.must_vet else min(ends, default=math.inf)

    # -- moving ----------------------------------------------------------------------------

    @property
    def stale(self) -> int:
        """How many connections are open of generations before the one in use."""
        counts = self.ledger.by_generation()
        return sum(n for generation, n in counts.items() if generation < self.serving)

    @property
    def has_stale(self) -> bool:
        """Whether there are any; unlike `stale`, cheap enough to be asked at each wake-up."""
        return self.ledger.has_before(self.serving)

    def is_stale(self, connection: object) -> bool:
        """Tell whether `connection` is one of the pool's, of a generation before that in use."""
        return generation_of(connection) < self.serving and self.ledger.owns(connection)

    def take_ready(self) -> T | None:
        """Take a replacement for an old connection, which is closed; `note_replaced` follows."""
        ready = None if self.stopped else self.replacements.take(self.serving)
        if ready is not None:
            with self._lock:
                self._moved += 1
        return ready

    def note_replaced(self) -> None:
        """An old connection is closed, and a replacement has its place."""
        self.replacements.cancel()
        self.wake()

    def reserve(self, generation: int) -> bool:
        """Ask for the right to open a replacement ahead, and begin its login.

        Where a candidate waits to be proven, one of ``overshoot`` is kept free for it.
        """
        room = self.policy.overshoot - bool(self._candidates)
        if not self.replacements.reserve(min(self.stale, room)):
            return False
        if begun := self.begin_login(generation):
            return begun
        self.replacements.cancel()
        return False

    def take_unwanted(self, now: float) -> list[T]:
        """Take the replacements that nothing needs any more; all of them once stopped."""
        # One of the generation in use is wanted for as long as there is something to replace.
        first_wanted = self.serving if self.has_stale else self.serving + 1
        unwanted = self.replacements.withdraw_all(
            lambda generation: (
                self.stopped or generation < first_wanted or generation in self._retiring
            ),
            now,
        )
        if self._candidates and (in_the_way := self.replacements.make_room()) is not None:
            unwanted.append(in_the_way)
        return unwanted

    def hint_idle(self) -> None:
        """Note that an old connection may have become idle, or closed where none is kept."""
        with self._lock:
            self.idle_hint += 1
        self.wake()

    def next_look(self, now: float, patience: float) -> float | None:
        """Return in how many seconds to look again without being woken; ``None`` for never.

        Args:
            now: the instant of this look.
            patience: the pool's ``reconnect_timeout``, in seconds.
        """
        # A server that died closes connections without telling anybody.
        waiting = self._candidates or self._questions or self._retiring
        again = _LOOK_AGAIN if waiting else None
        looks = (
            again,
            self.reconnects.release_in(now),
            self.reconnects.outage_in(now, patience),
            self.replacements.due_in(now),
        )
        return min((look for look in looks if look is not None), default=None)

    def begin_move(self, now: float) -> None:
        """Note when the pool began to move, unless it is moving already."""
        if self._moving_since is None:
            self._moving_since = now

    def end_move(self, pool: str, now: float) -> Event | None:
        """Tell the keeper what has been let go of; return what observers should know.

        Args:
            pool: the pool's name.
            now: the instant of this look.
        """
        ended = None
        if self._moving_since is not None and not self.has_stale:
            ended = PoolRotated(
                pool=pool,
                generation=self.serving,
                connections=self._moved,
                duration=now - self._moving_since,
            )
            self._moving_since, self._moved = None, 0
        with self._lock:
            # Before counting: no login with one of these begins any more.
            retiring, serving = set(self._retiring), self.serving
        counts = self.ledger.by_generation()
        with self._lock:
            released = sorted(retiring - counts.keys())
            self._retiring.difference_update(released)
            # Of the generation in use there may be none for a moment; of older ones none come.
            self._suspects = {g for g in self._suspects if g in counts or g >= serving}
            for generation in [g for g in self._leases if g not in counts and g < serving]:
                del self._leases[generation]
            self._update_trust()
        for generation in released:
            self._keeper.signal(ConsumerReleased(self._number, generation))
        return ended

    def next_overdue(self, pool: str, now: float) -> tuple[list[T], Event] | None:
        """Take connections that are still open at their deadline, and what to report of them.

        Args:
            pool: the pool's name.
            now: the instant of this look.
        """
        while self._expiring:
            generation = self._expiring.popleft().generation
            held = self.ledger.connections(generation)
            if held:
                borrowed = [b for c in held if (b := getattr(c, "lease_borrowed", None))]
                since = min([b.at for b in borrowed], default=self._moving_since or now)
                return held, BorrowedAtDeadline(
                    pool=pool,
                    generation=generation,
                    connections=len(held),
                    age=now - since,
                    where=tuple(sorted({b.where for b in borrowed})),
                    cancelled=self.policy.borrowed == "cancel",
                )
        return None

    # -- what psycopg_pool counts although no user did it ----------------------------------

    def note_own_checkout(self) -> None:
        """A connection was taken out to look at its generation."""
        with self._lock:
            self._own_checkouts += 1

    def correct(self, stats: dict[str, int], *, reset: bool = False) -> dict[str, int]:
        """Take what a rotation did itself out of psycopg_pool's counters."""
        with self._lock:
            if "requests_num" in stats:
                stats["requests_num"] = max(stats["requests_num"] - self._own_checkouts, 0)
            if reset:
                self._own_checkouts = 0
        return stats
