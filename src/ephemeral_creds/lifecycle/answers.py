"""What follows from the provider's answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ephemeral_creds import events
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle.generation import Generation, Stage, Turn
from ephemeral_creds.lifecycle.statistics import error_text
from ephemeral_creds.lifecycle.wishes import Reason

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.lifecycle.core import Core

__all__ = ["note_failure", "note_grant", "note_renewal", "note_revocation"]


def _complete(core: Core, kind: type[a.Operation], number: int = 0) -> a.Operation | None:
    """Return the operation that an answer is to; ``None`` if it comes late or twice."""
    asked = core.in_flight
    if type(asked) is not kind:
        return None
    if isinstance(asked, a.Renew | a.Revoke) and asked.grant.generation != number:
        return None
    core.in_flight = None
    return asked


def note_grant(core: Core, grant: Grant) -> None:
    """Take in what a fetch has brought."""
    asked = _complete(core, a.Fetch)
    if asked is None or core.is_closing:
        known = [generation.grant.credentials for generation in core.generations.values()]
        if grant.credentials not in known:
            core.move(core.add(grant), Turn.UNWANTED)
        return
    if grant.lease.expires_at <= core.now:
        # The answer took longer than the lease lives. Without a failure counted it would be
        # asked for again at once.
        _fetch_failed(core, ProviderUnavailable("the credentials had expired when they arrived"))
        return
    core.wishes.succeed()
    current, candidate = core.current, core.candidate
    if candidate is not None and candidate.grant.credentials == grant.credentials:
        _confirm(core, candidate, grant.lease)
    elif current is not None and current.is_same_role(grant):
        if candidate is not None:
            # The source has gone back to what is in use.
            core.discard(candidate, "superseded")
        if current.grant.credentials == grant.credentials:
            _confirm(core, current, grant.lease)
        else:
            _change_password(core, current, grant)
    else:
        _try_out(core, grant)


def _try_out(core: Core, grant: Grant) -> None:
    superseded, candidate = core.candidate, core.add(grant)
    core.report(
        events.CredentialsIssued(
            generation=candidate.number,
            username=grant.credentials.username,
            duration=grant.lease.duration,
            reason=core.wishes.reason.value,
        )
    )
    if superseded is not None:
        core.discard(superseded, "superseded")
    core.schedule(candidate)
    candidate.trial.start(core.remaining)
    core.candidate = candidate


def _confirm(core: Core, generation: Generation, lease: Lease) -> None:
    """Take note that a fetch brought what there was, maybe for longer."""
    refused = core.wishes.reason is Reason.LOGIN_REFUSED
    generation.renewal.initial_duration = lease.duration
    generation.password.note_same(generation.grant.lease, core.now, refused=refused)
    if refused:
        generation.doubt.confirm()
    _extend(core, generation, lease)
    generation.end.note_lease(generation.grant.lease)
    core.schedule(generation)


def _change_password(core: Core, generation: Generation, grant: Grant) -> None:
    """Have consumers log in with the new one; there is nothing to move or revoke."""
    generation.grant = replace(grant, generation=generation.number)
    generation.password.note_change()
    generation.doubt.clear()
    generation.end.note_lease(grant.lease)
    # Each fetch brings another token: that there is one says nothing about the next login.
    if not (grant.lease.is_token and core.wishes.reason is Reason.LOGIN_REFUSED):
        core.refusals.forget()
    core.schedule(generation)
    core.act(a.Publish(generation.grant))
    username = grant.credentials.username
    core.report(events.PasswordChanged(generation=generation.number, username=username))


def note_renewal(core: Core, number: int, lease: Lease) -> None:
    """Take in the lease that a renewal has brought."""
    asked = _complete(core, a.Renew, number)
    if not isinstance(asked, a.Renew):
        return
    generation = core.generations.get(number)
    if generation is None:
        # It was forgotten as expired before the answer came: it has not, so it is revoked.
        generation = core.add(replace(asked.grant, lease=lease))
        core.move(generation, Turn.UNWANTED)
    shortened = generation.renewal.is_shortened(lease)
    _extend(core, generation, lease)
    if generation.stage is not Stage.RETURNING:
        core.schedule(generation)
        if shortened or generation.is_expired:
            generation.renewal.stop()
        if shortened:
            core.replace(generation, Reason.MAXIMUM_LIFETIME)
        if generation is core.current and not generation.is_expired:
            core.wishes.drop(Reason.RENEWALS_FAIL)
    core.report(
        events.LeaseRenewed(generation=number, duration=lease.duration, shortened=shortened)
    )


def _extend(core: Core, generation: Generation, lease: Lease) -> None:
    if lease.requested_at < generation.grant.lease.requested_at:
        return
    moved = lease.expires_at != generation.expires_at
    generation.grant = replace(generation.grant, lease=lease)
    if moved and generation.stage in (Stage.CURRENT, Stage.RETIRED):
        core.act(a.Extend(generation.grant))
    if core.now < generation.grace_at:
        # Its deadline has moved away: what is borrowed is reclaimed again when it comes.
        generation.is_reclaimed = False
    if generation.is_expired and lease.expires_at > core.now:
        # The answer came after the old deadline: it had not expired.
        generation.is_expired = False
        if generation is core.current:
            core.act(a.Publish(generation.grant))


def note_revocation(core: Core, number: int) -> None:
    """Forget a generation whose lease has been revoked."""
    if _complete(core, a.Revoke, number) is None:
        return
    if (generation := core.generations.get(number)) is not None:
        core.move(generation, Turn.REVOKED)
    core.report(events.LeaseRevoked(generation=number))


# -- failures ------------------------------------------------------------------------------


def note_failure(core: Core, operation: a.Operation, error: Exception) -> None:
    """Plan what follows an operation that has failed."""
    number = 0 if isinstance(operation, a.Fetch) else operation.grant.generation
    if _complete(core, type(operation), number) is None:
        return
    if isinstance(operation, a.Fetch):
        _fetch_failed(core, error)
    elif (generation := core.generations.get(number)) is not None:
        core.statistics.note_error(error)
        if isinstance(operation, a.Renew):
            _renewal_failed(core, generation, error)
        else:
            _revocation_failed(core, generation, error)


def _fetch_failed(core: Core, error: Exception) -> None:
    wishes = core.wishes
    wishes.fail()
    core.statistics.note_error(error)
    if core.is_closing:
        return
    delay = core.retry_delay(error, wishes.failures, core.remaining)
    wishes.retry(core.now + delay)
    retry_in = min(delay, max(wishes.earliest - core.now, 0.0))
    core.report(
        events.FetchFailed(error=error_text(error), failures=wishes.failures, retry_in=retry_in)
    )


def _renewal_failed(core: Core, generation: Generation, error: Exception) -> None:
    lost = isinstance(error, LeaseLost)
    delay, renewal = math.inf, generation.renewal
    # One that is to be revoked, or has expired meanwhile, is not renewed again.
    if not (lost or generation.is_expired or generation.stage is Stage.RETURNING):
        remaining = generation.expires_at - core.now
        delay = core.retry_delay(error, renewal.failures + 1, remaining)
        renewal.fail(core.now, delay, remaining)
    core.report(
        events.RenewalFailed(generation=generation.number, error=error_text(error), retry_in=delay)
    )
    if lost:
        _lease_lost(core, generation)


def _lease_lost(core: Core, generation: Generation) -> None:
    generation.renewal.stop()
    if generation.stage is not Stage.RETURNING:
        core.act(a.Suspect(generation.grant))
        core.replace(generation, Reason.LEASE_LOST)
    if generation is core.candidate:
        core.give_up(generation, Reason.LEASE_LOST)
    if generation is not core.current:
        core.move(generation, Turn.LEASE_LOST)


def _revocation_failed(core: Core, generation: Generation, error: Exception) -> None:
    generation.failed_revocations += 1
    failures = generation.failed_revocations
    final = (
        core.is_closing
        or isinstance(error, AccessDenied | ConfigurationError)
        or failures >= core.policy.tuning.revoke_attempts
    )
    if final:
        core.move(generation, Turn.GIVEN_UP)
    else:
        remaining = generation.expires_at - core.now
        generation.revoke_at = core.now + core.retry_delay(error, failures, remaining)
    core.report(
        events.RevocationFailed(generation=generation.number, error=error_text(error), final=final)
    )
