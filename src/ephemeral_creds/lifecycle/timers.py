"""What comes due by itself: the one list, which `deadline` and `handle` share."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from ephemeral_creds import events
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle.core import Core, State
from ephemeral_creds.lifecycle.generation import Generation, Stage, Turn
from ephemeral_creds.lifecycle.wishes import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["timers"]


def timers(core: Core) -> Iterator[tuple[float, Callable[[], None]]]:
    """Yield the instant of each rule and what it does then, in the order in which they act.

    By acting, a rule moves its instant into the future, or leaves the list.
    """
    current, candidate = core.current, core.candidate
    generations = tuple(core.generations.values())
    for each in generations:
        yield each.reclaim_at, partial(_reclaim, core, each)
    for each in generations:
        yield each.drain_at, partial(core.move, each, Turn.DRAINED)
        expire_at = each.expire_at(is_renewing=each.number == core.renewing)
        yield expire_at, partial(_expire, core, each)
    if candidate is not None:
        has_fallback = core.state is State.SERVING and core.consumers
        yield candidate.trial.at if has_fallback else -math.inf, partial(_judge, core, candidate)
    if core.state is State.SERVING:
        # If nothing serves, each failed fetch reports it.
        yield core.trouble.at, partial(_report_trouble, core)
    if current is not None:
        yield current.end.at, partial(_expect_end, core, current)
    if core.in_flight is not None:
        return
    for newest in (current, candidate):
        if newest is not None:
            yield newest.password.at, partial(_read_password, core, newest)
    if current is not None and candidate is None:
        yield current.renewal.replace_at, partial(_replace, core, current)
    for each in generations:
        yield each.renewal.at, partial(core.request, a.Renew(each.grant))
    yield core.wishes.at, partial(_fetch, core)
    for each in generations:
        yield each.revoke_at, partial(core.request, a.Revoke(each.grant))


def _reclaim(core: Core, generation: Generation) -> None:
    generation.is_reclaimed = True
    core.act(a.Reclaim(generation.grant))


def _expire(core: Core, generation: Generation) -> None:
    generation.is_expired = True
    generation.renewal.stop()
    match generation.stage:
        case Stage.CURRENT:
            core.act(a.Expire(generation.grant))
            core.report(events.LeaseExpired(generation=generation.number))
            is_backing_off = core.wishes.failures and core.wishes.earliest < math.inf
            if not is_backing_off:
                core.replace(generation, Reason.EXPIRED)
        case Stage.CANDIDATE:
            core.give_up(generation, Reason.EXPIRED)
        case Stage.RETIRED if generation.number == core.renewing:
            pass
        case _:
            core.move(generation, Turn.EXPIRED)


def _judge(core: Core, candidate: Generation) -> None:
    if core.state is State.ACQUIRING or not core.consumers:
        core.move(candidate, Turn.NO_FALLBACK)
    elif candidate.trial.is_passed(core.now):
        core.move(candidate, Turn.PROVEN)
    else:
        for consumer in candidate.trial.ask(core.consumers, core.now):
            core.act(a.Prove(candidate.grant, consumer))


def _report_trouble(core: Core) -> None:
    if error := core.trouble.take():
        core.report(events.SourceUnusable(error=error))
    else:
        core.report(events.SourceRecovered())


def _expect_end(core: Core, current: Generation) -> None:
    """Ask or warn; whatever is known of its end, the current generation stays in use."""
    if current.end.due(core.now, can_ask=bool(core.consumers)) == "ask":
        core.act(a.AskEnd(current.grant))
        return
    ends_in = current.end.ends_at - core.now
    core.report(
        events.CredentialsEnding(
            generation=current.number, ends_in=ends_in, source_error=core.trouble.error
        )
    )


def _read_password(core: Core, generation: Generation) -> None:
    generation.password.at = math.inf
    core.wishes.want(Reason.ROTATION_DUE, core.now)


def _replace(core: Core, current: Generation) -> None:
    current.renewal.replace_at = math.inf
    core.wishes.want(current.renewal.replace_reason, core.now)


def _fetch(core: Core) -> None:
    core.wishes.fetch(core.now)
    current = core.current
    is_refused = current is not None and current.doubt.is_certain
    core.request(a.Fetch(refused=current.grant if current is not None and is_refused else None))
