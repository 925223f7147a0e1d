"""What is known of a pool's connections: those being opened, those open, and which to trust."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from ephemeral_creds.keeper.trust import Trust
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import EndLearned, LoginAccepted, LoginRejected, Tick
from ephemeral_creds.pool.jobs import Report, Tell
from ephemeral_creds.pool.ledger import Ledger, Opening, generation_of
from ephemeral_creds.pool.reconnects import Reconnects

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.lifecycle.signals import Signal
    from ephemeral_creds.pool.policy import RotationPolicy
    from ephemeral_creds.pool.reconnects import ConnectFailure

__all__ = ["Connections", "Overview", "locked"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="Connections[Any]")


def locked(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Have a method of `Connections` hold its lock."""

    @functools.wraps(method)
    def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Overview:
    """A pool's connections at one instant.

    Attributes:
        connections: how many are open, by generation.
        size: how many are open or logging in.
        stale: how many of these are of generations before the one in use.
        peak: the most there ever were.
        openings: what psycopg_pool is opening.
        held: how many of its connects wait until it is time.
        failure: why the last connect failed, if none has succeeded since.
    """

    connections: dict[int, int]
    size: int
    stale: int
    peak: int
    openings: tuple[Opening[Any], ...]
    held: int
    failure: ConnectFailure | None

    @property
    def misconfigured(self) -> bool:
        """Whether none is open, or about to be, because of a fault that only a person can fix."""
        return self.failure is not None and self.failure.hopeless and not self.size


class Connections(Generic[T]):
    """The facts that `Rotation` decides by, and whom they are passed on to.

    The keeper's thread, psycopg_pool's workers and the clients' threads tell them at any time. All
    is behind one lock, which is held for no more than a look at memory.

    Args:
        policy: how many connections to open ahead, and how long to wait.
        lock: makes the lock. Reentrant: a collection while it is held may return a connection
            that was forgotten.
        wake: called, from any thread, when there may be something to do.
        checks: whether a function of the user's looks at each connection before it is lent.
        keeps: whether connections stay open while idle. A pool that keeps none opens none ahead,
            and has more to do at each checkout than psycopg_pool's own.

    Attributes:
        consumer: the pool's number with its keeper.
        serving: the generation that new connections log in with; 0 before the first.
        must_vet: whether a checkout has more to do than psycopg_pool's own.
        trusted_until: the instant, on the keeper's clock, from which it has: the first deadline
            of a generation that connections are open of; ``-inf`` if that is now.
        disruptions: grows whenever a query may have failed because of its connection's generation:
            a role was replaced or found to be gone, or a connection of a replaced one came back.
        stopped: whether nothing is to be done any more but to close what is spare.
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
        self.policy = policy
        self.keeps = keeps
        self.wake = wake
        self.consumer = 0
        self.serving = self.disruptions = 0
        self.stopped = False
        self._new_lock = lock
        self._lock = lock()
        self._ledger: Ledger[T] = Ledger(policy.overshoot)
        self._reconnects = Reconnects(policy)
        self._trust = Trust(always_vet=checks or policy.trace_borrowers or not keeps)
        self._outbox: list[Tell | Report] = []
        self._end_asked = self._accepted = 0
        self._update_trust()

    def stop(self) -> None:
        """Nothing is to be done any more. Takes no lock, so that a finaliser may call it."""
        self.stopped = True
        self.wake()

    def abandon(self) -> None:
        """Forget everything in the child of a fork, where all of this is the parent's.

        The parent's threads may have held the lock at the instant of the fork.
        """
        policy, lock, keeps = self.policy, self._new_lock, self.keeps
        self.__init__(policy, lock, _nothing, keeps=keeps)  # type: ignore[misc]
        self.stopped = True

    @property
    @locked
    def overview(self) -> Overview:
        """What there is at this instant."""
        counts = self._ledger.by_generation()
        return Overview(
            connections=self._ledger.open_by_generation(),
            size=sum(counts.values()),
            stale=sum(n for generation, n in counts.items() if generation < self.serving),
            peak=self._ledger.peak,
            openings=tuple(self._ledger.openings),
            held=self._reconnects.held,
            failure=self._reconnects.last_failure,
        )

    @locked
    def open_connections(self) -> list[T]:
        """Return those that are open."""
        return self._ledger.connections()

    def is_stale(self, connection: object) -> bool:
        """Tell whether `connection` is one of the pool's, of a generation before that in use."""
        return generation_of(connection) < self.serving and self._ledger.owns(connection)

    # -- connects --------------------------------------------------------------------------

    @locked
    def begin(self, now: float) -> Opening[T]:
        """psycopg_pool opens a connection; `succeeded`, `failed_to_open` or `end` follows."""
        return self._ledger.begin(now)

    @locked
    def log_in(self, opening: Opening[T], generation: int) -> bool:
        """Write down that a login with `generation` is about to start, unless it was overtaken."""
        if generation < self.serving:
            return False
        self._ledger.log_in(opening, generation)
        return True

    @locked
    def logged_in(self, opening: Opening[T], connection: T) -> None:
        """The login of `opening` has succeeded."""
        self._ledger.logged_in(opening, connection)

    @locked
    def end(self, opening: Opening[T]) -> None:
        """It was given up, unless another failure was reported."""
        self._ledger.end(opening)

    @locked
    def succeeded(self, opening: Opening[T]) -> None:
        """The connection is ready for use."""
        self._ledger.end(opening)
        generation = opening.generation
        if generation > self._accepted:
            self._accepted = generation
            self._tell(LoginAccepted(self.consumer, generation))
        self._reconnects.succeeded()
        self.wake()

    @locked
    def failed_to_open(self, opening: Opening[T], failure: ConnectFailure, now: float) -> None:
        """The login failed, or something around it, which says nothing of the credentials."""
        self._ledger.end(opening)
        generation = opening.generation if failure is opening.failure else 0
        if generation and failure.refused:
            # Open sessions of the same role are asked why, or one of them has answered.
            self.suspect_generation(generation)
            if remedy := self._trust.refuse(generation):
                failure = failure.with_hint(remedy)
        self._reconnects.failed(failure, generation or self.serving, now)
        if generation:
            self._reject(generation, failure)

    def _reject(self, generation: int, failure: ConnectFailure) -> None:
        reason = failure.reason or LoginFailure.UNREACHABLE  # it says as little of the credentials
        self._tell(LoginRejected(self.consumer, generation, reason, failure.sqlstate))

    @locked
    def barred(self, now: float) -> bool:
        """Tell whether a connect has to wait, as others have failed; see `hold`."""
        return self._reconnects.barred_until(self.serving) > now

    @locked
    def refused_until(self) -> float:
        """Return until when to wait for other credentials: the last ones failed for themselves.

        ``-inf``: there are others, or the last connect failed for another reason, or for none.
        """
        failure = self._reconnects.last_failure
        if failure is None or not failure.lacks_credentials:
            return -math.inf
        return self._reconnects.barred_until(self.serving)

    @locked
    def hold(self, task: object, now: float) -> None:
        """Keep a connect of psycopg_pool's until it is time for it."""
        self._reconnects.hold(task, now)
        self.wake()

    @locked
    def claim_question(self, grant: Grant) -> bool:
        """Tell whether this login should ask how long `grant` can log in: one of each does."""
        if grant.lease.duration < math.inf or grant.generation <= self._end_asked:
            return False
        self._end_asked = grant.generation
        return True

    @locked
    def end_learned(self, generation: int, remaining: float | None) -> None:
        """PostgreSQL has answered: `remaining` seconds; ``None`` for no limit."""
        self._tell(EndLearned(generation, math.inf if remaining is None else remaining))

    # -- connections that may be dead without knowing --------------------------------------

    @locked
    def suspect_generation(self, generation: int) -> None:
        """Have connections up to `generation` tested before they are lent."""
        found = (*self._ledger.by_generation(), self.serving)
        self._trust.suspect(g for g in found if 0 < g <= generation)
        self._update_trust()

    @locked
    def suspect_expired(self, now: float) -> None:
        """Have what is past its deadline tested, although the keeper has not spoken yet.

        After a suspend its thread may sleep for some more seconds; it is woken.

        Args:
            now: the instant on the keeper's clock.
        """
        if expired := self._trust.expired(now):
            self._trust.expire(expired)
            self.suspect_generation(expired)
            self._tell(Tick())

    def is_suspect(self, generation: int) -> bool:
        """Tell whether a connection of `generation` has to be tested before it is lent."""
        return self._trust.is_suspect(generation)

    @locked
    def tested(self, generation: int, *, alive: bool) -> None:
        """A suspect connection was tested; one that is alive clears its generation."""
        if alive:
            self._trust.clear(generation)
            self._update_trust()
        else:
            self.disruptions += 1
            self._tell(LoginRejected(self.consumer, generation, LoginFailure.CREDENTIALS))

    def wants_valid_until(self, generation: int) -> bool:
        """Tell whether a login was refused, and no session has been asked for a reason."""
        return self._trust.wants_valid_until(generation)

    @locked
    def valid_until_learned(self, generation: int, remaining: float | None, now: float) -> None:
        """PostgreSQL lets the role log in for `remaining` seconds more; ``None`` for no limit.

        Args:
            generation: of which role.
            remaining: for how long.
            now: the instant on the keeper's clock.
        """
        answer = self._trust.valid_until(generation, remaining, now)
        if answer is not None:
            self._reconnects.explained(answer.remedy)
            self._report(answer)

    def _update_trust(self) -> None:
        self.trusted_until = self._trust.until
        self.must_vet = self.trusted_until == -math.inf

    def _tell(self, signal: Signal) -> None:
        self._outbox.append(Tell(signal))
        self.wake()

    def _report(self, event: Event) -> None:
        self._outbox.append(Report(event))
        self.wake()
