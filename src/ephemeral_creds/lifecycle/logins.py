"""What follows from a consumer's login, be it accepted or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds import events
from ephemeral_creds.lifecycle.generation import Generation, Turn
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.wishes import Reason

if TYPE_CHECKING:
    from ephemeral_creds.lifecycle import signals as s
    from ephemeral_creds.lifecycle.core import Core

__all__ = ["accept", "reject"]


def accept(core: Core, signal: s.LoginAccepted) -> None:
    """Note that PostgreSQL has accepted a login."""
    if signal.consumer not in core.consumers:
        return
    core.refusals.accept(signal.consumer)
    if (generation := core.generations.get(signal.generation)) is not None:
        generation.accept(signal.consumer)


def reject(core: Core, signal: s.LoginRejected) -> None:
    """Decide about a failed login, if it was with the current generation or the candidate."""
    generation = core.generations.get(signal.generation)
    if generation is None:
        return
    blamed = core.refusals.blames_credentials(signal.consumer, signal.reason)
    if generation is core.candidate:
        # It was not asked, or has answered: an attempt counts once.
        if generation.trial.awaits(signal.consumer):
            _report(core, signal, current=False)
            _proof_failed(core, generation, signal.consumer, blamed=blamed)
    elif generation is core.current:
        _report(core, signal, current=True)
        if blamed:
            _login_refused(core, generation, signal)


def _report(core: Core, signal: s.LoginRejected, *, current: bool) -> None:
    if signal.reason is not LoginFailure.UNREACHABLE:
        core.report(
            events.LoginRejected(
                generation=signal.generation,
                current=current,
                reason=signal.reason.value,
                sqlstate=signal.sqlstate,
            )
        )


def _proof_failed(core: Core, candidate: Generation, consumer: int, *, blamed: bool) -> None:
    # Who is refused with the current one as well says nothing against this one.
    worse = core.current is None or consumer not in core.current.refused
    trial, remaining = candidate.trial, core.remaining
    trial.fail(consumer, core.now, remaining, core.draw(), blamed=blamed, worse=worse)
    if trial.is_hopeless(remaining):
        core.give_up(candidate, Reason.CANDIDATE_REFUSED)


def _login_refused(core: Core, current: Generation, signal: s.LoginRejected) -> None:
    consumer, candidate = signal.consumer, core.candidate
    worked = consumer in current.accepted
    current.refuse(consumer)
    core.refusals.refuse(core.now, worked=worked)
    if candidate is not None:
        no_better = consumer in candidate.accepted or not current.accepted
        if signal.reason is LoginFailure.CREDENTIALS and no_better:
            core.move(candidate, Turn.NO_FALLBACK)
        return
    wishes, others_work = core.wishes, bool(current.accepted)
    is_planned = Reason.LOGIN_REFUSED in wishes and (wishes.failures > 0 or not worked)
    if is_planned or wishes.is_fetching:
        return
    at = core.now + core.refusals.delay(core.draw())
    age = core.now - current.came_at
    may_help = core.refusals.may_help(consumer, age, others_work=others_work)
    if at < wishes.earliest and (worked or not wishes.mints or may_help):
        core.refusals.answer(consumer, others_work=others_work)
        wishes.want(Reason.LOGIN_REFUSED, at)
