"""The life of credentials as a pure state machine.

Every rule about *when* is in this package: an ``if`` about a lease's age or a count of failures
anywhere else is a defect. The machine reads no clock, never sleeps, logs nothing and draws no
random number: the driver passes the time in, gets actions out, performs them in order, feeds each
outcome back, and comes again at `Lifecycle.deadline` at the latest.

- `generation` has the table of the moves that a grant can make; `core` makes them.
- `wishes` has why and when to fetch. It and the other rules that have a time of their own (`lease`,
  `password`, `trial`, `expected_end`, `source_trouble`) are small objects; `timers` lists them.
- `answers` has what follows from the provider's answers, `logins` what follows from logins.

While something is valid, only logins publish what is to replace it. With nothing to fall back on,
a grant is published without proof: there is nothing to lose. A generation that consumers still
have connections of is renewed for as long as the server allows.

A role that stays, and whose password the server changes, remains one generation: its sessions
outlive each change, so that a new password is published in its place, and nothing is retired.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, assert_never

from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle import answers, logins
from ephemeral_creds.lifecycle import signals as s
from ephemeral_creds.lifecycle.core import Core, State
from ephemeral_creds.lifecycle.generation import Stage
from ephemeral_creds.lifecycle.timers import timers
from ephemeral_creds.lifecycle.wishes import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.lifecycle.statistics import Counts

__all__ = ["HEARD", "Lifecycle", "State"]

# Far more rules than one signal can make due.
_MOST_RULES = 10_000

_ALWAYS = (s.ConsumerLeft, s.Tick)
_ANSWERS = (s.Granted, s.Renewed, s.Revoked, s.Failed)
_REPORTS = (s.LoginAccepted, s.LoginRejected, s.EndLearned, s.SourceChanged, s.SourceSeen)
_SERVED = (*_ALWAYS, *_ANSWERS, *_REPORTS, s.ConsumerReleased, s.RefreshRequested, s.Close)

# The signals that mean something, by state.
HEARD: dict[State, tuple[type[s.Signal], ...]] = {
    State.NEW: (*_ALWAYS, s.Start, s.Close),
    State.ACQUIRING: _SERVED,
    State.SERVING: _SERVED,
    State.CLOSING: (*_ALWAYS, *_ANSWERS, s.ConsumerReleased),
    State.CLOSED: (),
}


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
        self._core = Core(policy, draw, mints=mints)

    def handle(self, signal: s.Signal, now: float) -> tuple[a.Action, ...]:
        """Take note of `signal` and return what to do about it.

        Perform the actions in order and feed the outcome of each `Fetch`, `Renew` and `Revoke`
        back, then come again, with `Tick`, when `deadline` comes. Never raises, whatever comes
        in whatever order, unless by a defect; late and doubled answers are recognised.
        """
        core, before = self._core, self.state
        # A clock that was set back must not move a deadline that has been acted upon.
        core.now = max(now, core.now)
        if isinstance(signal, HEARD[before]):
            self._hear(signal)
        for _ in range(_MOST_RULES):
            rule = next((rule for at, rule in timers(core) if at <= core.now), None)
            if rule is None:
                break
            rule()
        else:
            raise RuntimeError("a rule stays due: please report this defect of ephemeral_creds")
        if self.state is State.CLOSED is not before:
            core.act(a.Stop())
        actions, core.actions = core.actions, []
        core.statistics.count(actions, core.issued)
        return tuple(actions)

    def _hear(self, signal: s.Signal) -> None:
        core = self._core
        match signal:
            case s.Start():
                core.is_started = True
                core.wishes.want(Reason.START, core.now)
            case s.Granted(grant):
                answers.note_grant(core, grant)
            case s.Renewed(number, lease):
                answers.note_renewal(core, number, lease)
            case s.Revoked(number):
                answers.note_revocation(core, number)
            case s.Failed(operation, error):
                answers.note_failure(core, operation, error)
            case s.SourceChanged():
                core.wishes.want_change(core.now)
            case s.SourceSeen(error):
                core.trouble.see(core.now, error)
            case s.RefreshRequested():
                # The caller may have fixed what keeps the candidate from logging in.
                if core.candidate is None or core.candidate.trial.is_stuck:
                    core.wishes.want(Reason.ASKED_FOR, core.now)
            case s.ConsumerLeft(consumer):
                core.leave(consumer)
            case s.ConsumerReleased(consumer, number):
                core.release(consumer, number)
            case s.LoginAccepted():
                logins.accept(core, signal)
            case s.LoginRejected():
                logins.reject(core, signal)
            case s.EndLearned(number, remaining):
                generation = core.generations.get(number)
                if generation is not None and generation.expires_at == math.inf:
                    generation.end.learn(core.now, remaining)
            case s.Tick():
                pass
            case s.Close():
                core.close()
            case _:
                assert_never(signal)

    # -- what others may know ---------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """The instant at which to come again with `Tick`; ``inf`` if only a signal can help."""
        return min((at for at, _ in timers(self._core)), default=math.inf)

    @property
    def state(self) -> State:
        """Where the machine as a whole is."""
        return self._core.state

    def join(self, consumer: int) -> Grant | None:
        """Count a consumer in, and return the grant that it starts with, if there is one.

        An input like a signal, but one that is answered: from this instant on the consumer may
        have connections of that grant, which must not be revoked while a signal waits.
        """
        self._core.join(consumer)
        return self.current

    def usable(self, now: float) -> Grant | None:
        """Return the grant that a login may use at `now`, or ``None``."""
        current = self._core.current
        return current.grant if current is not None and now < current.expires_at else None

    @property
    def current(self) -> Grant | None:
        """The grant published last, be it expired or not."""
        current = self._core.current
        return current.grant if current is not None else None

    @property
    def ends_at(self) -> float:
        """When the current grant is expected to end although it has no deadline; or ``inf``."""
        return self._core.current.end.ends_at if self._core.current is not None else math.inf

    @property
    def source_error(self) -> str:
        """Why what the source has now is not used; empty if it is, or might be in a moment."""
        return self._core.trouble.error

    @property
    def retired(self) -> tuple[int, ...]:
        """The generations that are on their way out."""
        leaving = (Stage.RETIRED, Stage.RETURNING)
        return tuple(n for n, g in self._core.generations.items() if g.stage in leaving)

    @property
    def proving(self) -> bool:
        """Whether new credentials wait for a login that proves them."""
        return self._core.candidate is not None

    @property
    def settled(self) -> bool:
        """Whether no fetch is asked for, in flight or being retried, and none waits for proof."""
        fetching = isinstance(self._core.in_flight, a.Fetch)
        return not fetching and not self.proving and self._core.wishes.earliest == math.inf

    @property
    def counts(self) -> Counts:
        """How often things happened."""
        return self._core.statistics.counts

    @property
    def last_error(self) -> Exception | None:
        """The last failure of an operation."""
        return self._core.statistics.last_error

    @property
    def last_failure(self) -> str | None:
        """The last failure in words, be it of an operation or of the source."""
        return self._core.statistics.last_failure
