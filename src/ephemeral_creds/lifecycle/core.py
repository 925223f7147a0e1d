"""What all rules of one machine work on, and the one function that moves a generation."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from ephemeral_creds import events
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError, ProviderUnavailable
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle.generation import MOVES, Generation, Stage, Turn
from ephemeral_creds.lifecycle.refusals import Refusals
from ephemeral_creds.lifecycle.source_trouble import SourceTrouble
from ephemeral_creds.lifecycle.statistics import Statistics
from ephemeral_creds.lifecycle.wishes import Reason, Wishes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["Core", "State"]


class State(Enum):
    """Where the machine as a whole is."""

    NEW = "new"
    ACQUIRING = "acquiring"
    SERVING = "serving"
    CLOSING = "closing"
    CLOSED = "closed"


class Core:
    """The state of one machine.

    Attributes:
        now: the instant that the rules go by.
        actions: what they have decided so far.
        consumers: who uses the keeper.
        generations: all that there is anything to do with, by number.
        current: the one in use, be it expired or not. Other threads read it without a lock.
        candidate: the one that waits to be proven.
        issued: how many grants there have been.
        in_flight: what the provider has been asked and has not answered; one thing at a time.
        is_started, is_closing: whether it has been told to.
    """

    def __init__(self, policy: RefreshPolicy, draw: Callable[[], float], *, mints: bool) -> None:
        self.policy, self.draw = policy, draw
        self.now = -math.inf
        self.actions: list[a.Action] = []
        self.consumers: set[int] = set()
        self.generations: dict[int, Generation] = {}
        self.current: Generation | None = None
        self.candidate: Generation | None = None
        self.issued = 0
        self.in_flight: a.Operation | None = None
        self.is_started = self.is_closing = False
        self.statistics = Statistics()
        self.wishes = Wishes(policy, mints=mints)
        self.refusals = Refusals(policy)
        self.trouble = SourceTrouble(policy.tuning.source_patience)

    @property
    def state(self) -> State:
        """Where the machine as a whole is: derived, never assigned."""
        if self.is_closing:
            is_busy = self.generations or self.in_flight is not None
            return State.CLOSING if is_busy else State.CLOSED
        if not self.is_started:
            return State.NEW
        is_serving = self.current is not None and not self.current.is_expired
        return State.SERVING if is_serving else State.ACQUIRING

    @property
    def remaining(self) -> float:
        """How many seconds are left of the one in use."""
        return self.current.expires_at - self.now if self.current is not None else 0.0

    @property
    def renewing(self) -> int:
        """The number of the generation whose renewal is in flight; 0 without one."""
        return self.in_flight.grant.generation if isinstance(self.in_flight, a.Renew) else 0

    def act(self, action: a.Action) -> None:
        """Have the driver do something."""
        self.actions.append(action)

    def report(self, event: events.Event) -> None:
        """Have the observers told."""
        self.actions.append(a.Report(event))

    def request(self, operation: a.Operation) -> None:
        """Have the provider do something, and wait for its answer."""
        self.in_flight = operation
        self.act(operation)

    # -- moves -----------------------------------------------------------------------------

    def add(self, grant: Grant) -> Generation:
        """Take in a grant; without a number it is new, and gets the next."""
        if not grant.generation:
            self.issued += 1
            grant = replace(grant, generation=self.issued)
        generation = Generation(grant, self.policy, self.consumers, self.now)
        self.generations[generation.number] = generation
        return generation

    def move(self, generation: Generation, turn: Turn) -> None:
        """Change a generation's stage as `MOVES` says, and do what belongs to the new one.

        Raises:
            RuntimeError: there is no such move: a defect.
        """
        before = generation.stage
        if (before, turn) not in MOVES:
            raise RuntimeError(
                f"generation {generation.number}: no move from {before.name} by {turn.name}; "
                "this is a defect of ephemeral_creds, please report it"
            )
        generation.stage = MOVES[before, turn]
        if generation is self.candidate:
            self.candidate = None
        if generation is self.current:
            self.current = None
        match generation.stage:
            case Stage.CURRENT:
                self._publish(generation)
            case Stage.RETIRED:
                self.act(a.Retire(generation.grant))
                if not generation.is_shared:
                    # No consumer reports when it is free: it works until its lease ends.
                    generation.renewal.stop()
            case Stage.RETURNING:
                generation.renewal.stop()
                generation.revoke_at = self.now
                if not generation.grant.lease.lease_id:
                    self.move(generation, Turn.NOTHING_TO_REVOKE)
            case Stage.GONE:
                del self.generations[generation.number]
            case Stage.CANDIDATE:
                pass

    def _publish(self, generation: Generation) -> None:
        previous, self.current = self.current, generation
        generation.consumers = set(self.consumers)
        generation.is_shared = bool(self.consumers)
        self.schedule(generation)
        self.act(a.Publish(generation.grant))
        self.report(
            events.CredentialsPublished(
                generation=generation.number,
                username=generation.grant.credentials.username,
                previous=previous.number if previous is not None else None,
                proven=generation.trial.is_complete,
            )
        )
        if previous is not None:
            self.move(previous, Turn.REPLACED)

    def close(self) -> None:
        """Give everything back."""
        self.is_closing = True
        self.wishes.clear()
        for generation in tuple(self.generations.values()):
            self.move(generation, Turn.CLOSED)

    def discard(self, candidate: Generation, reason: str) -> None:
        """Give a candidate up."""
        self.report(events.CandidateDiscarded(generation=candidate.number, reason=reason))
        self.move(candidate, Turn.DISCARDED)

    # -- consumers -------------------------------------------------------------------------

    def join(self, consumer: int) -> None:
        """Count a consumer in, which may have connections of the one in use from now on."""
        self.consumers.add(consumer)
        if self.current is not None:
            self.current.consumers.add(consumer)
            self.current.is_shared = True

    def release(self, consumer: int, number: int) -> None:
        """Note that a consumer has no connections of a retired generation any more."""
        generation = self.generations.get(number)
        # It cannot let go of what new connections still log in with.
        if generation is not None and generation.stage is Stage.RETIRED:
            generation.consumers.discard(consumer)

    def leave(self, consumer: int) -> None:
        """Count a consumer out."""
        self.consumers.discard(consumer)
        self.refusals.leave(consumer)
        for generation in self.generations.values():
            generation.leave(consumer)

    # -- what several rules share ------------------------------------------------------------

    def schedule(self, generation: Generation) -> None:
        """Plan what comes next for a generation whose lease is new."""
        generation.schedule(self.now, self.draw())

    def replace(self, generation: Generation, reason: Reason) -> None:
        """Wish for another one if `generation` is the newest there is."""
        if generation is self.current and self.candidate is None:
            self.wishes.want(reason, self.now)

    def give_up(self, candidate: Generation, reason: Reason) -> None:
        """Discard a candidate, and wish for another."""
        self.discard(candidate, reason.value)
        self.wishes.want(reason, self.now)

    def retry_delay(self, error: Exception, failures: int, ends_in: float) -> float:
        """Return after how long to repeat an operation.

        Args:
            error: why it failed.
            failures: how often in a row.
            ends_in: within how many seconds it has to succeed; 0 or less if it is too late.
        """
        delay = self.policy.retry_after(failures, self.draw())
        if isinstance(error, AccessDenied | ConfigurationError):
            delay = max(delay, self.policy.tuning.config_retry)
        if isinstance(error, ProviderUnavailable) and error.retry_after is not None:
            delay = max(delay, self.policy.asked_delay(error.retry_after, ends_in))
        return delay
