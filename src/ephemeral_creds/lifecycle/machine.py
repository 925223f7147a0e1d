"""The life of credentials as a pure state machine.

Theory of operation
-------------------
Every rule about *when* is in this file: when to renew, replace, retry, back off, mint, retire,
revoke and give up waiting; what follows from one grant alone is in `lifecycle.generation`. An
``if`` about a lease's age or a count of failures anywhere else is a defect. The machine reads no
clock, never sleeps, logs nothing and draws no random number: the driver passes the time in, gets
actions out, performs them in order, feeds each outcome back, and comes again at
`Lifecycle.deadline` at the latest. That a pool joins is the one thing that no signal tells: a
signal waits for its turn, and what the pool was handed could be given back before that.

The machine as a whole is in one of five states; `_TABLE` at the end says what each signal does in
each, and a signal that is not in the table does nothing there:

    NEW ── Start ──▶ ACQUIRING ── Granted ──▶ SERVING        ── Close ──▶ CLOSING ──▶ CLOSED
                         ◀── the current grant's deadline ──

Each grant it has been given is a `Generation` in one of four stages:

    CANDIDATE ── every pool logged in ──▶ CURRENT ── a newer one is ──▶ RETIRED ── no pool
        └────────── refused, superseded ───────────────────────────────▶   │  has connections
                                                       RETURNING ◀─────────┘
    and leaves the machine when it has been revoked, when it has expired and no renewal of it is
    on its way, or when revoking it has failed for good.

With nothing to fall back on, a grant is published without proof: there is nothing to lose. While
something is valid, only logins publish what is to replace it: neither silence nor an error that is
not about the credentials says anything for or against them. Where one pool has logged in, another
whose server does not answer holds a candidate up for a while only. A pool that was refused holds it
up until it is let in, since a replica may lag by all that is left of the current one; just before
that ends, another is fetched instead.

A refused login with the current one is answered at once where the pool had been let in with it, and
ever more slowly where it never was. One that was just minted may not have reached a replica yet.
A candidate is used without proof then, unless other pools are still let in with the current one: a
pool that is let in nowhere must neither take it away from them, nor hold a candidate up that they
are let in with; and one role is minted for it, not one after the other.

At most one provider operation is in flight. A generation that pools still hold connections of is
renewed for as long as the server allows. A failed renewal never mints at once: half of what is
left is for renewing. Every mint passes one limiter, whatever asked for it.

A role that stays, and whose password the server changes, is one generation for ever: its sessions
outlive each change, so that a new password is published in its place, and nothing is retired.

A fetch is either asked for, and then due or being retried (`_fetch_at`), or foreseen for the end
of a lease or a password: that is the generation's own (`replace_at`, `read_at`), and counts for
nothing until it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, assert_never

from ephemeral_creds import events
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.lifecycle.actions import (
    Action,
    AskEnd,
    Expire,
    Extend,
    Fetch,
    Operation,
    Prove,
    Publish,
    Reclaim,
    Renew,
    Report,
    Retire,
    Revoke,
    Stop,
    Suspect,
)
from ephemeral_creds.lifecycle.expected_end import ExpectedEnd
from ephemeral_creds.lifecycle.generation import Generation, Stage
from ephemeral_creds.lifecycle.policy import Limiter, RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerLeft,
    ConsumerReleased,
    EndLearned,
    Failed,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Renewed,
    Revoked,
    Signal,
    SourceChanged,
    SourceSeen,
    Start,
)
from ephemeral_creds.lifecycle.source_trouble import SourceTrouble

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant, Lease

__all__ = ["CHANGE_BURST", "CHANGE_INTERVAL", "Counts", "Lifecycle", "State"]

# One fetch is made per this many seconds because the source changed, after a burst. A file that
# somebody writes in a loop is followed at this pace; each new version may be a rotation. No honest
# writer comes near it.
CHANGE_INTERVAL = 0.2
CHANGE_BURST = 20

# When renewals fail: the fraction of the remaining time after which to mint instead. Half of what
# is left is for renewing, the other half for minting and moving.
_ESCALATE_AT = 0.5

_CHANGED = "source changed"
_LOGIN_REFUSED = "login refused"
_CANDIDATE_REFUSED = "logins refused"
_RENEWALS_FAIL = "renewals fail"

_Handlers = dict[type[Any], Callable[["Lifecycle", Any], None]]


class State(Enum):
    """Where the machine as a whole is."""

    NEW = "new"
    ACQUIRING = "acquiring"
    SERVING = "serving"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(slots=True)
class Counts:
    """How often things happened since the start."""

    fetches: int = 0
    grants: int = 0
    renewals: int = 0
    revocations: int = 0
    rotations: int = 0
    rejected_logins: int = 0
    failed_fetches: int = 0
    failed_renewals: int = 0
    failed_revocations: int = 0


class Lifecycle:
    """Decides; see the module's text.

    Args:
        policy: the figures to decide by.
        mints: whether a fetch makes the server create something, so that it is rationed.
        draw: returns a number from 0 to 1; a random one in production.
    """

    def __init__(
        self,
        policy: RefreshPolicy,
        *,
        mints: bool = True,
        draw: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.state = State.NEW
        self.counts = Counts()
        self.last_error: Exception | None = None
        self.last_failure: str | None = None
        self._policy = policy
        self._draw = draw
        self._limiter = Limiter(policy.mint_interval, policy.mint_burst) if mints else None
        self._changes = Limiter(CHANGE_INTERVAL, CHANGE_BURST)
        self._trouble = SourceTrouble(policy.tuning.source_patience)
        self._now = -math.inf
        self._consumers: set[int] = set()
        self._let_in: set[int] = set()
        self._minted_for: set[int] = set()
        self._generations: dict[int, Generation] = {}
        self._current: Generation | None = None
        self._candidate: Generation | None = None
        self._in_flight: Operation | None = None
        self._fetch_at = math.inf
        self._fetch_reason = "start"
        self._fetch_again = False
        self._fetch_failures = 0
        self._refused_in_row = 0
        self._refused_at = -math.inf
        self._actions: list[Action] = []

    def handle(self, signal: Signal, now: float) -> tuple[Action, ...]:
        """Take note of `signal` and return what to do about it.

        Perform the actions in order and feed the outcome of each `Fetch`, `Renew` and `Revoke`
        back, then come again, with `Tick`, when `deadline` comes. Never raises, whatever comes
        in whatever order; late and doubled answers are recognised.
        """
        # A clock that was set back must not move a deadline that has been acted upon.
        self._now = max(now, self._now)
        handler = self._TABLE[self.state].get(type(signal))
        if handler is not None:
            handler(self, signal)
        self._settle()
        actions, self._actions = self._actions, []
        return tuple(actions)

    @property
    def deadline(self) -> float:
        """The instant at which to come again with `Tick`; ``inf`` where only a signal can help."""
        if self.state in (State.NEW, State.CLOSED):
            return math.inf
        instants = [g.expires_at for g in self._generations.values() if not g.lapsed]
        instants += [g.announced_at(self._policy) for g in self._generations.values()]
        if self._current is not None:
            instants.append(self._current.end.look_at)
        if self._candidate is not None:
            instants.append(self._candidate.next_look())
        if self.state is State.SERVING:
            instants.append(self._trouble.look_at)
        if self._in_flight is None:
            instants += [g.due_at for g in self._generations.values()]
            instants += [self._fetch_allowed_at(), self._replacement_at()]
            instants.append(self._current.read_at if self._current is not None else math.inf)
        return min(instants, default=math.inf)

    def join(self, consumer: int) -> Grant | None:
        """Count a pool in, and return the grant that it starts with, if there is one.

        At once, unlike a signal: from this instant on the pool may have connections of it.
        """
        if self.state is State.CLOSED:
            return None
        self._consumers.add(consumer)
        if self._current is not None:
            self._current.holders.add(consumer)
            self._current.shared = True
        return self.current

    def usable(self, now: float) -> Grant | None:
        """Return the grant that a login may use at `now`, or ``None``."""
        current = self._current
        return current.grant if current is not None and now < current.expires_at else None

    @property
    def current(self) -> Grant | None:
        """The grant published last, be it expired or not."""
        current = self._current
        return current.grant if current is not None else None

    @property
    def ends_at(self) -> float:
        """When the current grant is expected to end although it has no deadline; or ``inf``."""
        return self._current.end.at if self._current is not None else math.inf

    @property
    def source_error(self) -> str:
        """Why what the source has now is not used; empty where it is, or might be in a moment."""
        return self._trouble.error

    @property
    def retired(self) -> tuple[int, ...]:
        """The generations that are on their way out."""
        return tuple(
            g.number
            for g in self._generations.values()
            if g.stage in (Stage.RETIRED, Stage.RETURNING)
        )

    @property
    def proving(self) -> bool:
        """Whether new credentials wait for a login that proves them."""
        return self._candidate is not None

    @property
    def settled(self) -> bool:
        """Whether no fetch is asked for, in flight or being retried, and none waits for proof."""
        fetching = isinstance(self._in_flight, Fetch)
        return not fetching and not self.proving and self._fetch_at == math.inf

    # -- what each signal means ------------------------------------------------------------

    def _start(self, _: Start) -> None:
        self.state = State.ACQUIRING
        self._plan_fetch("start", self._now)

    def _granted_without_fallback(self, signal: Granted) -> None:
        if (generation := self._admit(signal.grant)) is not None:
            self._publish(generation)

    def _granted_with_fallback(self, signal: Granted) -> None:
        if (generation := self._admit(signal.grant)) is None:
            return
        if self._candidate is not None:
            self._discard(self._candidate, "superseded")
        self._schedule(generation)
        generation.reserve = self._policy.proof_reserve(self._remaining())
        self._candidate = generation

    def _granted_too_late(self, signal: Granted) -> None:
        self._landed(Fetch)
        if not self._is_known(signal.grant):
            self._return(self._number(signal.grant))

    def _renewed(self, signal: Renewed) -> None:
        asked = self._landed(Renew, signal.generation)
        if not isinstance(asked, Renew):
            return
        self.counts.renewals += 1
        generation = self._generations.get(signal.generation)
        if generation is None:
            # It was taken for dead while the answer was on its way; it lives, so give it back.
            self._return(self._enter(replace(asked.grant, lease=signal.lease)))
            return
        generation.failures = 0
        self._extend(generation, signal.lease)
        shortened = self._policy.is_shorter(signal.lease.duration, generation.asked)
        if generation.stage is not Stage.RETURNING:
            self._schedule(generation)
            if shortened or generation.lapsed:
                generation.due_at = math.inf
            if shortened:
                self._replace_if_newest(generation, "maximum lifetime")
            if generation.lapsed:
                self._lapse(generation)
            elif generation is self._current and self._fetch_reason == _RENEWALS_FAIL:
                self._fetch_at = math.inf
        self._report(
            events.LeaseRenewed(
                generation=generation.number,
                duration=signal.lease.duration,
                shortened=shortened,
            )
        )

    def _revoked(self, signal: Revoked) -> None:
        if not self._landed(Revoke, signal.generation):
            return
        self.counts.revocations += 1
        self._generations.pop(signal.generation, None)
        self._report(events.LeaseRevoked(generation=signal.generation))

    def _failed(self, signal: Failed) -> None:
        operation = signal.operation
        number = 0 if isinstance(operation, Fetch) else operation.grant.generation
        if not self._landed(type(operation), number):
            return
        generation = self._generations.get(number)
        match operation:
            case Fetch():
                self._fetch_failed(signal.error)
            case Renew() if generation is not None:
                self._renewal_failed(generation, signal.error)
            case Revoke() if generation is not None:
                self._revocation_failed(generation, signal.error)
            case Renew() | Revoke():
                pass
            case _:
                assert_never(operation)

    def _fetch_failed(self, error: Exception) -> None:
        self._note(error)
        self.counts.failed_fetches += 1
        self._fetch_failures += 1
        if self.state is State.CLOSING:
            return
        delay = self._delay(error, self._fetch_failures, self._current)
        self._plan_fetch(self._fetch_reason, self._now + delay)
        self._catch_up_with_source()
        self._report(
            events.FetchFailed(
                error=_text(error),
                failures=self._fetch_failures,
                retry_in=min(delay, self._fetch_at - self._now),
            )
        )

    def _renewal_failed(self, generation: Generation, error: Exception) -> None:
        self._note(error)
        self.counts.failed_renewals += 1
        lost = isinstance(error, LeaseLost)
        # What is being given back, or has ended meanwhile, is not renewed once more.
        over = lost or generation.lapsed or generation.stage is Stage.RETURNING
        delay = math.inf
        if not over:
            generation.failures += 1
            delay = self._delay(error, generation.failures, generation)
            generation.due_at = self._now + delay
            if generation.failures == 1:
                remaining = generation.expires_at - self._now
                generation.replace_at = self._now + remaining * _ESCALATE_AT
                generation.replace_reason = _RENEWALS_FAIL
        self._report(
            events.RenewalFailed(generation=generation.number, error=_text(error), retry_in=delay)
        )
        if lost:
            self._lease_lost(generation)
        elif generation.lapsed:
            self._lapse(generation)

    def _lease_lost(self, generation: Generation) -> None:
        generation.due_at = math.inf
        if generation.stage is not Stage.RETURNING:
            self._replace_if_newest(generation, "lease lost")
            self._actions.append(Suspect(generation.grant))
        if generation is self._candidate:
            self._drop_candidate("lease lost", self._now)
        if generation is not self._current:
            self._forget(generation)

    def _revocation_failed(self, generation: Generation, error: Exception) -> None:
        self._note(error)
        self.counts.failed_revocations += 1
        generation.failures += 1
        final = (
            self.state is State.CLOSING
            or isinstance(error, AccessDenied | ConfigurationError)
            or generation.failures >= self._policy.tuning.revoke_attempts
        )
        if final:
            self._forget(generation)
        else:
            delay = self._delay(error, generation.failures, generation)
            generation.due_at = self._now + delay
        self._report(
            events.RevocationFailed(generation=generation.number, error=_text(error), final=final)
        )

    def _source_changed(self, _: SourceChanged) -> None:
        if isinstance(self._in_flight, Fetch):
            self._fetch_again = True
        else:
            self._follow_source()

    def _source_seen(self, signal: SourceSeen) -> None:
        self._trouble.see(self._now, signal.error)

    def _refresh_requested(self, _: RefreshRequested) -> None:
        candidate = self._candidate
        # Whoever asks may have mended what keeps the candidate from logging in.
        wanted = candidate is None or candidate.is_stuck(self._policy.tuning.proof_attempts)
        if wanted and not isinstance(self._in_flight, Fetch):
            self._plan_fetch("asked for", self._now)

    def _left(self, signal: ConsumerLeft) -> None:
        self._consumers.discard(signal.consumer)
        self._let_in.discard(signal.consumer)
        self._minted_for.discard(signal.consumer)
        for generation in list(self._generations.values()):
            generation.leave(signal.consumer)
            self._release(generation, signal.consumer)

    def _released(self, signal: ConsumerReleased) -> None:
        generation = self._generations.get(signal.generation)
        # A pool cannot let go of what new connections still log in with.
        if generation is not None and generation.stage is Stage.RETIRED:
            self._release(generation, signal.consumer)

    def _accepted(self, signal: LoginAccepted) -> None:
        generation = self._generations.get(signal.generation)
        if signal.consumer in self._consumers:
            self._let_in.add(signal.consumer)
            self._minted_for.discard(signal.consumer)
            if generation is not None:
                generation.accept(signal.consumer)

    def _rejected(self, signal: LoginRejected) -> None:
        candidate, current = self._candidate, self._current
        if candidate is not None and signal.generation == candidate.number:
            self._proof_failed(candidate, signal)
        elif current is not None and signal.generation == current.number:
            self._report_rejected(signal, current=True)
            if self._blames_credentials(signal):
                self._login_refused(current, signal)

    def _blames_credentials(self, signal: LoginRejected) -> bool:
        """Tell whether other credentials may be let in.

        pg_hba.conf turns away who it does not list, and a pool whose database or address it does
        not list: the latter has never been let in.
        """
        by_hba = signal.reason is LoginFailure.PG_HBA and signal.consumer in self._let_in
        return by_hba or signal.reason is LoginFailure.CREDENTIALS

    def _login_refused(self, current: Generation, signal: LoginRejected) -> None:
        worked = signal.consumer in current.accepted
        current.refuse(signal.consumer)
        # Soon after the last one it is the same trouble, unless it has worked in between.
        if worked or self._now - self._refused_at >= self._policy.retry_max:
            self._refused_in_row = 0
        self._refused_at = self._now
        planned = self._fetch_at < math.inf and self._fetch_reason == _LOGIN_REFUSED
        answered = planned and (self._fetch_failures > 0 or not worked)
        if (candidate := self._candidate) is not None:
            no_better = signal.consumer in candidate.accepted or not current.accepted
            if signal.reason is LoginFailure.CREDENTIALS and no_better:
                self._publish(candidate)
        elif not answered and not isinstance(self._in_flight, Fetch):
            at = self._now + self._refusal_delay()
            if at < self._fetch_at and (worked or self._may_help(current, signal.consumer)):
                self._refused_in_row += 1
                if current.accepted:
                    self._minted_for.add(signal.consumer)
                self._plan_fetch(_LOGIN_REFUSED, at)

    def _may_help(self, current: Generation, consumer: int) -> bool:
        """Tell whether another role may be let in by a pool's server where this one never was."""
        if self._limiter is None:
            return True
        # A replica may not know of it yet, and would know of another one no sooner.
        may_lag = self._now < current.came_at + self._policy.proof_timeout
        # It is let in elsewhere, and for this pool one was minted already: that was in vain.
        in_vain = bool(current.accepted) and consumer in self._minted_for
        return not (may_lag or in_vain)

    def _end_learned(self, signal: EndLearned) -> None:
        generation = self._generations.get(signal.generation)
        if generation is not None and generation.expires_at == math.inf:
            generation.end.learn(self._now, signal.remaining)

    def _close(self, _: Close) -> None:
        self.state = State.CLOSING
        self._fetch_at = math.inf
        self._fetch_again = False
        self._candidate = self._current = None
        for generation in list(self._generations.values()):
            self._return(generation)

    # -- what follows, whatever the signal was ---------------------------------------------

    def _settle(self) -> None:
        if self.state in (State.NEW, State.CLOSED):
            return
        # Before what has ended is forgotten, and again after the candidate, whose publication may
        # have retired what is about to end.
        self._settle_announcements()
        self._settle_expiries()
        if self.state is not State.CLOSING:
            self._settle_candidate()
            self._settle_announcements()
            self._settle_trouble()
            self._settle_end()
        if self._in_flight is None:
            self._settle_operations()

    def _settle_expiries(self) -> None:
        for generation in list(self._generations.values()):
            if generation.lapsed or self._now < generation.expires_at:
                continue
            generation.lapsed = True
            generation.due_at = math.inf
            match generation.stage:
                case Stage.CURRENT:
                    self.state = State.ACQUIRING
                    self._actions.append(Expire(generation.grant))
                    self._report(events.CredentialsLapsed(generation=generation.number))
                    backing_off = self._fetch_failures and self._fetch_at < math.inf
                    if not backing_off:
                        self._replace_if_newest(generation, "expired")
                case Stage.CANDIDATE:
                    self._drop_candidate("expired", self._now)
                case Stage.RETIRED | Stage.RETURNING:
                    self._lapse(generation)

    def _lapse(self, generation: Generation) -> None:
        """Forget what has ended, unless the answer to a renewal may still show it to be alive."""
        waiting = self._in_flight
        renewing = isinstance(waiting, Renew) and waiting.grant.generation == generation.number
        if generation.stage is Stage.RETURNING or (
            generation.stage is Stage.RETIRED and not renewing
        ):
            self._forget(generation)

    def _settle_announcements(self) -> None:
        for generation in self._generations.values():
            self._announce(generation)

    def _announce(self, generation: Generation) -> None:
        if self._now >= generation.announced_at(self._policy):
            generation.announced = True
            self._actions.append(Reclaim(generation.grant))

    def _settle_trouble(self) -> None:
        """Tell of the source while something serves; where nothing does, each failed fetch does."""
        if self.state is not State.SERVING or not self._trouble.due(self._now):
            return
        if error := self._trouble.error:
            self.last_failure = error
            self._report(events.SourceUnusable(error=error))
        else:
            self._report(events.SourceRecovered())

    def _settle_end(self) -> None:
        """Whatever is known of the current grant's end, it stays in use."""
        current = self._current
        if current is None:
            return
        match current.end.due(self._now, can_ask=bool(self._consumers)):
            case "ask":
                self._actions.append(AskEnd(current.grant))
            case "tell":
                ends_in = current.end.at - self._now
                self._report(
                    events.CredentialsEnding(
                        generation=current.number, ends_in=ends_in, source_error=self.source_error
                    )
                )

    def _settle_candidate(self) -> None:
        candidate = self._candidate
        if candidate is None:
            return
        if not candidate.proofs and not candidate.accepted:
            latest = self._now + self._policy.proof_timeout
            candidate.demand_proofs(self._consumers, self._now, latest)
        nothing_to_lose = self.state is State.ACQUIRING or not self._consumers
        if nothing_to_lose or candidate.is_publishable(self._now):
            self._publish(candidate)
            return
        due = candidate.proofs_due(self._now)
        self._actions += [Prove(candidate.grant, consumer) for consumer in due]

    def _settle_operations(self) -> None:
        if self._current is not None and self._current.read_at <= self._now:
            self._current.read_at = math.inf
            self._plan_fetch("rotation due", self._now)
        if self._current is not None and self._replacement_at() <= self._now:
            self._current.replace_at = math.inf
            self._plan_fetch(self._current.replace_reason, self._now)
        due = [g for g in self._generations.values() if g.due_at <= self._now]
        renewals = [g for g in due if g.stage is not Stage.RETURNING]
        returns = [g for g in due if g.stage is Stage.RETURNING]
        if renewals:
            self._request(Renew(renewals[0].grant))
        elif self._fetch_allowed_at() <= self._now:
            self._fetch_at = math.inf
            self.counts.fetches += 1
            if self._fetch_reason == _CHANGED:
                self._changes.take(self._now)
            if self._limiter is not None:
                self._limiter.take(self._now)
            self._request(Fetch())
        elif returns:
            self._request(Revoke(returns[0].grant))
        elif self.state is State.CLOSING and not self._generations:
            self.state = State.CLOSED
            self._actions.append(Stop())

    def _fetch_allowed_at(self) -> float:
        if self._limiter is None or self._fetch_at == math.inf:
            return self._fetch_at
        return self._limiter.available_at(self._fetch_at)

    def _replacement_at(self) -> float:
        """When the one in use is to be replaced, where nothing is on its way to do so."""
        if self._current is None or self._candidate is not None:
            return math.inf
        return self._current.replace_at

    # -- the moves that a generation can make ----------------------------------------------

    def _admit(self, grant: Grant) -> Generation | None:
        """Take in what a fetch brought; ``None`` where there is nothing new in it."""
        if not self._landed(Fetch):
            # Nobody asked for it: a late or doubled answer. What is new in it is given back.
            if not self._is_known(grant):
                self._return(self._number(grant))
            return None
        self._catch_up_with_source()
        if grant.lease.expires_at <= self._now:
            # The answer took longer than the lease lives. Without a failure counted it would be
            # asked for again at once.
            self._fetch_failed(ProviderUnavailable("the credentials had expired when they arrived"))
            return None
        self._fetch_failures = 0
        if self._candidate is not None and self._candidate.grant.credentials == grant.credentials:
            self._confirm(self._candidate, grant)
            return None
        current = self._current
        if current is not None:
            same = current.grant.credentials == grant.credentials
            if same or current.is_other_password(grant):
                if self._candidate is not None:
                    # The source has gone back to what is in use.
                    self._discard(self._candidate, "superseded")
                if same:
                    self._confirm(current, grant)
                else:
                    self._change_password(current, grant)
                return None
        generation = self._number(grant)
        self._report(
            events.CredentialsIssued(
                generation=generation.number,
                username=grant.credentials.username,
                duration=grant.lease.duration,
                reason=self._fetch_reason,
            )
        )
        return generation

    def _confirm(self, generation: Generation, grant: Grant) -> None:
        """Take note that a fetch brought what there was, maybe for longer."""
        generation.asked = grant.lease.duration
        refused = self._fetch_reason == _LOGIN_REFUSED
        generation.count_unchanged(self._now, refused=refused)
        self._extend(generation, grant.lease)
        self._expect_end(generation)
        self._schedule(generation)

    def _change_password(self, generation: Generation, grant: Grant) -> None:
        """Log in with the new password from now on; there is nothing to move or to return."""
        generation.grant = replace(grant, generation=generation.number)
        generation.unchanged = self._refused_in_row = 0
        self._schedule(generation)
        self._actions.append(Publish(generation.grant))
        self._report(
            events.PasswordChanged(
                generation=generation.number, username=grant.credentials.username
            )
        )

    def _number(self, grant: Grant) -> Generation:
        self.counts.grants += 1
        return self._enter(replace(grant, generation=self.counts.grants))

    def _enter(self, grant: Grant) -> Generation:
        generation = Generation(
            grant=grant,
            asked=grant.lease.duration,
            holders=set(self._consumers),
            came_at=self._now,
            end=ExpectedEnd(
                self._policy.grace, max(self._policy.grace, self._policy.retry_initial)
            ),
            shared=bool(self._consumers),
        )
        self._expect_end(generation)
        self._generations[generation.number] = generation
        return generation

    def _publish(self, generation: Generation) -> None:
        previous = self._current
        proven = generation is self._candidate and generation.is_proven
        self._candidate = None
        self._current = generation
        generation.settle_proofs()
        generation.stage = Stage.CURRENT
        generation.failures = 0
        generation.holders = set(self._consumers)
        generation.shared = bool(self._consumers)
        self.state = State.SERVING
        self._schedule(generation)
        self._actions.append(Publish(generation.grant))
        self.counts.rotations += previous is not None
        self._report(
            events.CredentialsPublished(
                generation=generation.number,
                username=generation.grant.credentials.username,
                previous=previous.number if previous is not None else None,
                proven=proven,
            )
        )
        if previous is not None:
            self._retire(previous)

    def _discard(self, generation: Generation, reason: str) -> None:
        self._candidate = None
        generation.settle_proofs()
        self._report(events.CandidateDiscarded(generation=generation.number, reason=reason))
        self._retire(generation)

    def _drop_candidate(self, reason: str, refetch_at: float) -> None:
        if self._candidate is not None:
            self._discard(self._candidate, reason)
            # What is being fetched takes its place.
            if not isinstance(self._in_flight, Fetch):
                self._plan_fetch(reason, refetch_at)

    def _retire(self, generation: Generation) -> None:
        generation.stage = Stage.RETIRED
        self._actions.append(Retire(generation.grant))
        # One that had ended while there was no other: only now can what is borrowed be seen to.
        self._announce(generation)
        if generation.shared and not generation.holders:
            self._return(generation)
        elif generation.lapsed:
            self._lapse(generation)
        elif not generation.shared:
            # Its users do not tell when they are done; it works until its lease ends.
            generation.due_at = math.inf
            if not generation.grant.lease.lease_id:
                self._forget(generation)

    def _release(self, generation: Generation, consumer: int) -> None:
        generation.holders.discard(consumer)
        if generation.stage is Stage.RETIRED and generation.shared and not generation.holders:
            self._return(generation)

    def _return(self, generation: Generation) -> None:
        generation.stage = Stage.RETURNING
        generation.failures = 0
        generation.due_at = self._now
        if generation.lapsed or not generation.grant.lease.lease_id:
            self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        self._generations.pop(generation.number, None)

    # -- small helpers ---------------------------------------------------------------------

    def _note(self, error: Exception) -> None:
        self.last_error, self.last_failure = error, _text(error)

    def _request(self, operation: Operation) -> None:
        self._in_flight = operation
        self._actions.append(operation)

    def _landed(self, kind: type[Operation], number: int = 0) -> Operation | None:
        """Note that an operation has ended, and return it; ``None`` where it was not in flight."""
        waiting = self._in_flight
        if type(waiting) is not kind:
            return None
        if isinstance(waiting, Renew | Revoke) and waiting.grant.generation != number:
            return None
        self._in_flight = None
        return waiting

    def _plan_fetch(self, reason: str, at: float) -> None:
        # What failing renewals ask for is called off when one succeeds; nobody else's wish is.
        if at < self._fetch_at or self._fetch_reason == _RENEWALS_FAIL:
            self._fetch_reason = reason
        self._fetch_at = min(at, self._fetch_at)

    def _follow_source(self) -> None:
        self._plan_fetch(_CHANGED, self._changes.available_at(self._now))

    def _catch_up_with_source(self) -> None:
        """What a fetch brought may be from before a change that came while it was in flight."""
        if self._fetch_again:
            self._fetch_again = False
            self._follow_source()

    def _expect_end(self, generation: Generation) -> None:
        lease = generation.grant.lease
        if lease.duration < math.inf:
            generation.end.forget()
        else:
            generation.end.announce(lease.announced_end)

    def _replace_if_newest(self, generation: Generation, reason: str) -> None:
        fetching = isinstance(self._in_flight, Fetch)
        if generation is self._current and self._candidate is None and not fetching:
            self._plan_fetch(reason, self._now)

    def _proof_failed(self, candidate: Generation, signal: LoginRejected) -> None:
        proof = candidate.proofs.get(signal.consumer)
        if proof is None or proof.ask_at < math.inf:
            # It was not asked, or has answered: an attempt counts once.
            return
        self._report_rejected(signal, current=False)
        refused = self._blames_credentials(signal)
        # Who is refused with the current one as well says nothing against this one.
        worse = self._current is None or signal.consumer not in self._current.refused
        failures = proof.count(refused=refused and worse)
        remaining = self._remaining()
        proof.ask_at = self._now + self._policy.proof_retry_after(
            failures, remaining, self._draw(), refused=refused
        )
        # Later than that, another one would not be ready in time either.
        hopeless = candidate.is_refused(self._policy.tuning.proof_attempts)
        if hopeless and 0 < remaining <= candidate.reserve:
            self._drop_candidate(_CANDIDATE_REFUSED, self._now)

    def _remaining(self) -> float:
        """Return what is left of the one in use."""
        return self._current.expires_at - self._now if self._current is not None else 0.0

    def _report_rejected(self, signal: LoginRejected, *, current: bool) -> None:
        if signal.reason is LoginFailure.UNREACHABLE:
            return
        self.counts.rejected_logins += 1
        self._report(
            events.LoginRejected(
                generation=signal.generation,
                current=current,
                reason=signal.reason.value,
                sqlstate=signal.sqlstate,
            )
        )

    def _refusal_delay(self) -> float:
        """The first refusal is answered at once; a server that refuses them all is not hammered."""
        if not self._refused_in_row:
            return 0.0
        backoff = self._policy.retry_after(self._refused_in_row, self._draw())
        return max(self._policy.tuning.config_retry, backoff)

    def _delay(self, error: Exception, failures: int, ending: Generation | None) -> float:
        """Return when to try again; `ending` is what this has to be done before the end of."""
        delay = self._policy.retry_after(failures, self._draw())
        if isinstance(error, AccessDenied | ConfigurationError):
            delay = max(delay, self._policy.tuning.config_retry)
        if isinstance(error, ProviderUnavailable) and error.retry_after is not None:
            remaining = ending.expires_at - self._now if ending is not None else 0.0
            delay = max(delay, self._policy.asked_delay(error.retry_after, remaining))
        return delay

    def _extend(self, generation: Generation, lease: Lease) -> None:
        if lease.requested_at < generation.grant.lease.requested_at:
            return
        moved = lease.expires_at != generation.expires_at
        generation.grant = replace(generation.grant, lease=lease)
        if moved and generation.stage in (Stage.CURRENT, Stage.RETIRED):
            self._actions.append(Extend(generation.grant))
        if self._now < lease.expires_at - self._policy.grace_of(generation.asked):
            # Its end has moved away, and is announced once more when it comes.
            generation.announced = False
        if generation.lapsed and lease.expires_at > self._now:
            # The answer came after the old deadline: it has been alive all the time.
            generation.lapsed = False
            if generation is self._current and self.state is State.ACQUIRING:
                self.state = State.SERVING
                self._actions.append(Publish(generation.grant))

    def _schedule(self, generation: Generation) -> None:
        """Plan the renewal or, where there is none, the replacement."""
        lease = generation.grant.lease
        at = lease.requested_at + self._policy.renew_after(lease.duration, self._draw())
        # Without pools, nobody says when a retired one is free: it is left to end.
        wanted = generation.shared or generation.stage is not Stage.RETIRED
        generation.due_at = at if lease.renewable and wanted else math.inf
        generation.replace_at = math.inf if lease.renewable else at
        generation.replace_reason = "not renewable"
        generation.read_at = generation.next_read(self._policy, self._now, self._draw())

    def _is_known(self, grant: Grant) -> bool:
        return any(g.grant.credentials == grant.credentials for g in self._generations.values())

    def _report(self, event: events.Event) -> None:
        self._actions.append(Report(event))

    # -- the table: state by signal --------------------------------------------------------

    _ANY_TIME: ClassVar[_Handlers] = {
        Renewed: _renewed,
        Revoked: _revoked,
        Failed: _failed,
        ConsumerLeft: _left,
        ConsumerReleased: _released,
    }
    _LIVE: ClassVar[_Handlers] = {
        **_ANY_TIME,
        SourceChanged: _source_changed,
        SourceSeen: _source_seen,
        RefreshRequested: _refresh_requested,
        LoginAccepted: _accepted,
        LoginRejected: _rejected,
        EndLearned: _end_learned,
        Close: _close,
    }
    _TABLE: ClassVar[Mapping[State, _Handlers]] = {
        State.NEW: {
            Start: _start,
            ConsumerLeft: _left,
            Close: _close,
        },
        State.ACQUIRING: {**_LIVE, Granted: _granted_without_fallback},
        State.SERVING: {**_LIVE, Granted: _granted_with_fallback},
        State.CLOSING: {**_ANY_TIME, Granted: _granted_too_late},
        State.CLOSED: {},
    }


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
