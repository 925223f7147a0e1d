"""The pool's own machine: what is to be done to move from generation to generation, and when.

Like the lifecycle it reads no clock, never sleeps and does no I/O. Its driver takes
`Rotation.jobs`, does them, tells `Rotation.done` of each, and looks again at `Rotation.deadline`,
or when it is woken.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from ephemeral_creds.events import BorrowedAtDeadline, PoolRotated
from ephemeral_creds.lifecycle.signals import ConsumerReleased, LoginAccepted
from ephemeral_creds.pool.connections import Connections, locked
from ephemeral_creds.pool.jobs import (
    AskEnd,
    CloseUnwanted,
    CutOff,
    Job,
    Preconnect,
    Prove,
    ReplaceIdle,
    Report,
    Retry,
    TellOutage,
)
from ephemeral_creds.pool.ledger import generation_of
from ephemeral_creds.pool.reconnects import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ephemeral_creds._values import Grant
    from ephemeral_creds.pool.policy import RotationPolicy

__all__ = ["LOOK_AGAIN", "Rotation"]

T = TypeVar("T")

LOOK_AGAIN = 0.5
"""Seconds until the next look while old connections are open. Nothing reports one that breaks in
its borrower's hands, or that psycopg_pool has put back by itself."""


class Rotation(Connections[T]):
    """One pool's move from generation to generation; it is a keeper's `Consumer`.

    Args:
        policy: and all that follow: see `Connections`.

    Attributes:
        name: the pool's name, for events.
        patience: seconds after which connects that all fail are an outage: ``reconnect_timeout``.
        cut_off: how many connections were cut off at their deadline.
        overdue: how many connections were borrowed at their deadline, cut off or not.
    """

    def __init__(
        self,
        policy: RotationPolicy,
        lock: Callable[[], AbstractContextManager[Any]],
        wake: Callable[[], None],
        *,
        checks: bool = False,
        keeps: bool = True,
    ) -> None:
        super().__init__(policy, lock, wake, checks=checks, keeps=keeps)
        self.name = ""
        self.patience = math.inf
        self.cut_off = self.overdue = 0
        self._grant: Grant | None = None
        self._candidates: deque[Grant] = deque()
        self._questions: deque[Grant] = deque()
        self._retiring: set[int] = set()
        self._reclaimed: deque[int] = deque()
        self._moving_since: float | None = None
        self._moved = 0
        # Whether an old connection may have become idle since the last look, and when to look
        # anyway; whether a spare one has waited without being used since.
        self._may_be_idle = self._all_borrowed = False
        self._look_at = self._now = -math.inf

    # -- what the keeper says; see `Consumer` ------------------------------------------------

    @locked
    def join(self, consumer: int, current: Grant | None) -> None:
        """The keeper has added this pool: `consumer` is its number, `current` the grant in use."""
        self.consumer = consumer
        if current is not None:
            self.publish(current)

    @locked
    def prove(self, grant: Grant) -> None:
        """Have the pool log in once with `grant`."""
        # It is asked for again where the answer takes long.
        if all(queued.generation != grant.generation for queued in self._candidates):
            self._candidates.append(grant)
        self.wake()

    @locked
    def publish(self, grant: Grant) -> None:
        """Have the pool log in with `grant` from now on."""
        if grant.generation >= self.serving:
            self.disruptions += 0 < self.serving < grant.generation
            self.serving, self._grant = grant.generation, grant
        self._trust.learn(grant)
        self._update_trust()
        self._reconnects.renewed(grant.generation)
        self.look_again()

    @locked
    def extend(self, grant: Grant) -> None:
        """Note that the deadline of `grant` has moved."""
        if self._trust.knows(grant.generation):
            self._trust.learn(grant)
            self._update_trust()
            self.wake()

    @locked
    def retire(self, grant: Grant) -> None:
        """Have the pool replace its connections of `grant`."""
        self._retiring.add(grant.generation)
        self._candidates = deque(c for c in self._candidates if c.generation != grant.generation)
        self.wake()

    @locked
    def expire(self, grant: Grant) -> None:
        """Note that `grant` is at its deadline."""
        self._trust.expire(grant.generation)
        self.suspect_generation(grant.generation)

    @locked
    def reclaim(self, grant: Grant) -> None:
        """Note that the time of what is borrowed of `grant` is up."""
        # A candidate that was given up has nothing borrowed.
        if grant.generation < self.serving:
            self._reclaimed.append(grant.generation)
            self.wake()
        self.expire(grant)

    def suspect(self, grant: Grant) -> None:
        """Have connections of `grant` tested before they are lent."""
        self.suspect_generation(grant.generation)

    @locked
    def ask_end(self, grant: Grant) -> None:
        """Have the pool ask how long `grant` can log in."""
        self._end_asked = min(self._end_asked, grant.generation - 1)
        self._questions.append(grant)
        self.wake()

    def failed(self) -> None:
        """Have callers that wait for credentials ask the keeper again: it may raise by now."""
        self.wake()

    # -- what is to be done ----------------------------------------------------------------

    @locked
    def jobs(self, now: float) -> list[Job]:
        """Take what is to be done now; `done` follows for each.

        Ask again until there is nothing: what one has brought may be another's reason.
        """
        self._now = now
        jobs: list[Job] = []
        if unwanted := self._take_unwanted(now):
            jobs.append(CloseUnwanted(unwanted))
        if not self.stopped:
            jobs += self._proofs(now)
            jobs += self._replacements(now)
            if tasks := self._reconnects.release(now):
                jobs.append(Retry(tuple(tasks)))
            if self._reconnects.take_outage(now, self.patience):
                jobs.append(TellOutage())
            self._release(now)
            jobs += self._overdue(now)
        jobs[:0], self._outbox = self._outbox, []
        return jobs

    @property
    @locked
    def deadline(self) -> float:
        """The instant from which `jobs` has something although nothing was reported."""
        at = [
            self._ledger.spare_until,
            self._reconnects.release_at,
            self._reconnects.outage_at(self.patience),
        ]
        # As `jobs` has seen it: what has broken since is found out at the next look.
        if self._moving_since is not None:
            barred_until = self._reconnects.barred_until(self.serving)
            at += [self._look_at, barred_until if barred_until > self._now else math.inf]
        return min(at)

    @locked
    def done(self, job: Job, outcome: T | ConnectFailure | bool | None, now: float) -> None:
        """A job is done.

        Args:
            job: which one.
            outcome: what a login has brought, or why it failed; what `ReplaceIdle` says; ``None``
                for all others, and if it could not be done.
            now: the instant.
        """
        match job:
            case Prove() | Preconnect() | AskEnd():
                self._opened(job, outcome, now)
            case CloseUnwanted(connections):
                for connection in connections:
                    self._ledger.release(connection)
            case ReplaceIdle() if outcome is True:
                self._all_borrowed = False
            case _:
                return
        self.wake()

    def _opened(self, job: Prove | Preconnect | AskEnd, outcome: Any, now: float) -> None:
        opening, generation = job.opening, job.grant.generation
        self._ledger.end(opening)
        if outcome is None:
            return
        failed = isinstance(outcome, ConnectFailure)
        if not failed:
            self._ledger.spare(outcome, now + self.policy.park if self.keeps else now)
            self._may_be_idle = True
        match job:
            case Preconnect() if failed:
                opening.failure = outcome
                self.failed_to_open(opening, outcome, now)
            case Preconnect():
                self.succeeded(opening)
            case _ if failed:
                # It bars nothing: nothing else uses these credentials, or they work otherwise.
                self._reject(generation, outcome)
            case Prove():
                self._tell(LoginAccepted(self.consumer, generation))

    def _take_unwanted(self, now: float) -> tuple[T, ...]:
        # One of the generation in use is wanted for as long as there is something to replace.
        stale = self._has_stale
        first_wanted = self.serving if stale else self.serving + 1
        unwanted = self._ledger.take_unwanted(
            lambda g: self.stopped or g < first_wanted or g in self._retiring, now
        )
        if stale and any(generation_of(c) == self.serving for c in unwanted):
            # Nothing old came back while it waited: before that happens no other is opened.
            self._all_borrowed = True
        return unwanted + (self._ledger.make_room() if self._candidates else ())

    def _proofs(self, now: float) -> Iterator[Job]:
        ledger = self._ledger
        while self._candidates and ledger.room():
            grant = self._candidates.popleft()
            if grant.generation > self.serving:
                yield Prove(grant, ledger.begin(now, grant.generation, ahead=True))
        while self._questions and ledger.room():
            grant = self._questions.popleft()
            # Unless it was overtaken, or another login has asked meanwhile.
            if grant.generation > max(self.serving - 1, self._end_asked):
                yield AskEnd(grant, ledger.begin(now, grant.generation, ahead=True))

    def _replacements(self, now: float) -> Iterator[Job]:
        stale = self.overview.stale
        if not stale or self._grant is None:
            return
        if self._moving_since is None:
            self._moving_since = now
        spare = self._ledger.has_spare(self.serving)
        if now >= self._look_at or (self._may_be_idle and spare):
            self._may_be_idle, self._look_at = False, now + LOOK_AGAIN
            yield ReplaceIdle()
        expired = self.serving <= self._trust.expired_through
        if not self.keeps or self._all_borrowed or expired or self.barred(now):
            return
        for _ in range(self._ledger.room(stale)):
            yield Preconnect(self._grant, self._ledger.begin(now, self.serving, ahead=True))

    def _release(self, now: float) -> None:
        """Tell what has been let go of."""
        if self._moving_since is not None and not self._has_stale:
            event = PoolRotated(
                pool=self.name,
                generation=self.serving,
                connections=self._moved,
                duration=now - self._moving_since,
            )
            self._report(event)
            self._moving_since, self._moved = None, 0
        # No login with one of these begins any more.
        counts = self._ledger.by_generation()
        released = sorted(self._retiring - counts.keys())
        self._retiring.difference_update(released)
        self._trust.forget(self.serving, counts)
        self._update_trust()
        for generation in released:
            self._tell(ConsumerReleased(self.consumer, generation))

    def _overdue(self, now: float) -> Iterator[Job]:
        """Act on connections that are still open at their deadline."""
        cancel = self.policy.borrowed == "cancel"
        while self._reclaimed:
            generation = self._reclaimed.popleft()
            held = self._ledger.connections(generation)
            if not held:
                continue
            borrowed = [b for c in held if (b := c._lease.borrowed)]
            event = BorrowedAtDeadline(
                pool=self.name,
                generation=generation,
                connections=len(held),
                age=now - min([b.at for b in borrowed], default=self._moving_since or now),
                where=tuple(sorted({b.where for b in borrowed})),
                cancelled=cancel,
            )
            self.overdue += len(held)
            yield Report(event)
            if cancel:
                self.cut_off += len(held)
                yield CutOff(tuple(held))

    # -- old connections -------------------------------------------------------------------

    @property
    def _has_stale(self) -> bool:
        return self._ledger.has_before(self.serving)

    @locked
    def take_spare(self) -> T | None:
        """Take a connection that may replace an old one; `replaced` or `put_back` follows."""
        return None if self.stopped else self._ledger.take(self.serving)

    @locked
    def put_back(self, spare: T) -> None:
        """There was no old one for it."""
        self._ledger.put_back(spare)

    @locked
    def replaced(self, spare: T) -> None:
        """It has the place of an old one, which is closed."""
        self._ledger.release(spare)
        self._moved += 1
        self.wake()

    @locked
    def stale_returned(self) -> None:
        """Its borrower has returned a connection of an old generation."""
        self.disruptions += 1
        # It is closed, and nothing takes its place.
        self._moved += not self.keeps

    @locked
    def look_again(self) -> None:
        """An old connection may have become idle, or was closed."""
        self._may_be_idle, self._all_borrowed = True, False
        self.wake()
