"""One grant on its way through the machine: the table of its moves, and what is known of it."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from ephemeral_creds.lifecycle.expected_end import ExpectedEnd
from ephemeral_creds.lifecycle.lease import Renewal
from ephemeral_creds.lifecycle.password import PasswordReading
from ephemeral_creds.lifecycle.refusals import Doubt
from ephemeral_creds.lifecycle.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ephemeral_creds._values import Grant
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["MOVES", "Generation", "Stage", "Turn"]


class Stage(Enum):
    """Where a grant is on its way."""

    CANDIDATE = "candidate"
    CURRENT = "current"
    RETIRED = "retired"
    RETURNING = "returning"
    GONE = "gone"


class Turn(Enum):
    """What makes a grant move on; the value says it to people."""

    PROVEN = "consumers have logged in with it"
    NO_FALLBACK = "there is nothing to lose"
    DISCARDED = "refused, expired, lost or superseded before it was in use"
    REPLACED = "a newer one is in use"
    DRAINED = "no consumer has connections of it"
    UNWANTED = "it came too late to be used"
    CLOSED = "the keeper closes"
    REVOKED = "its lease has been revoked"
    GIVEN_UP = "revoking its lease has failed for good"
    NOTHING_TO_REVOKE = "it has no lease"
    LEASE_LOST = "the server does not know its lease"
    EXPIRED = "its deadline has come, and no renewal is in flight"


# A pair that is missing is a defect; `Core.move` says so.
MOVES: Mapping[tuple[Stage, Turn], Stage] = {
    (Stage.CANDIDATE, Turn.PROVEN): Stage.CURRENT,
    (Stage.CANDIDATE, Turn.NO_FALLBACK): Stage.CURRENT,
    (Stage.CANDIDATE, Turn.DISCARDED): Stage.RETIRED,
    (Stage.CANDIDATE, Turn.UNWANTED): Stage.RETURNING,
    (Stage.CANDIDATE, Turn.CLOSED): Stage.RETURNING,
    (Stage.CURRENT, Turn.REPLACED): Stage.RETIRED,
    (Stage.CURRENT, Turn.CLOSED): Stage.RETURNING,
    (Stage.RETIRED, Turn.DRAINED): Stage.RETURNING,
    (Stage.RETIRED, Turn.CLOSED): Stage.RETURNING,
    (Stage.RETIRED, Turn.LEASE_LOST): Stage.GONE,
    (Stage.RETIRED, Turn.EXPIRED): Stage.GONE,
    (Stage.RETURNING, Turn.CLOSED): Stage.RETURNING,
    (Stage.RETURNING, Turn.REVOKED): Stage.GONE,
    (Stage.RETURNING, Turn.GIVEN_UP): Stage.GONE,
    (Stage.RETURNING, Turn.NOTHING_TO_REVOKE): Stage.GONE,
    (Stage.RETURNING, Turn.LEASE_LOST): Stage.GONE,
    (Stage.RETURNING, Turn.EXPIRED): Stage.GONE,
}


class Generation:
    """One grant, as long as the machine has anything to do with it.

    Attributes:
        stage: changed by `Core.move` alone.
        consumers: those that may have connections of it.
        is_shared: whether there ever were any. Without them no consumer reports when it is free.
        accepted: the consumers that have logged in with it, and were not refused since.
        refused: the consumers that were refused with it, and have not logged in since.
        is_expired: whether its deadline has come, as far as that has been noticed.
        is_reclaimed: whether consumers were told to act on what is borrowed of it.
        revoke_at: when to revoke its lease, in RETURNING.
    """

    def __init__(
        self, grant: Grant, policy: RefreshPolicy, consumers: Iterable[int], now: float
    ) -> None:
        self.grant = grant
        self.came_at = now
        self.stage = Stage.CANDIDATE
        self.consumers = set(consumers)
        self.is_shared = bool(self.consumers)
        self.accepted: set[int] = set()
        self.refused: set[int] = set()
        self.is_expired = self.is_reclaimed = False
        self.revoke_at = math.inf
        self.failed_revocations = 0
        self.renewal = Renewal(policy, grant.lease.duration)
        self.trial = Trial(policy, self.accepted)
        self.password = PasswordReading(policy)
        self.doubt = Doubt()
        self.end = ExpectedEnd(policy.grace, max(policy.grace, policy.retry_initial))
        self.end.note_lease(grant.lease)
        self._policy = policy

    @property
    def number(self) -> int:
        """Its place among the keeper's grants, counted from 1."""
        return self.grant.generation

    @property
    def expires_at(self) -> float:
        """Its deadline."""
        return self.grant.lease.expires_at

    @property
    def grace_at(self) -> float:
        """The instant from which its deadline is near."""
        return self.expires_at - self._policy.grace_of(self.renewal.initial_duration)

    @property
    def reclaim_at(self) -> float:
        """When consumers are to act on what is borrowed of it, once it has been replaced."""
        is_due = self.stage is Stage.RETIRED and not self.is_reclaimed
        return self.grace_at if is_due else math.inf

    @property
    def drain_at(self) -> float:
        """Now, if no consumer has connections of it or, without consumers, it has no lease."""
        is_free = not self.consumers if self.is_shared else not self.grant.lease.lease_id
        return -math.inf if self.stage is Stage.RETIRED and is_free else math.inf

    def expire_at(self, *, is_renewing: bool) -> float:
        """Return when its deadline has to be noticed; a renewal in flight may still save it."""
        waits = is_renewing if self.stage is Stage.RETIRED else self.stage is not Stage.RETURNING
        return math.inf if self.is_expired and waits else self.expires_at

    def schedule(self, now: float, draw: float) -> None:
        """Plan its renewal or, if it cannot be renewed, its replacement; and the next reading."""
        self.renewal.schedule(self.grant.lease, draw)
        self.password.schedule(self.grant.lease, now, draw)

    def accept(self, consumer: int) -> None:
        """Note that `consumer` has logged in with it."""
        self.trial.excuse(consumer)
        self.accepted.add(consumer)
        self.refused.discard(consumer)
        self.doubt.clear()

    def refuse(self, consumer: int) -> None:
        """Note that `consumer` was refused with it, while it was in use."""
        self.accepted.discard(consumer)
        self.refused.add(consumer)
        self.doubt.refuse()

    def leave(self, consumer: int) -> None:
        """Note that there is no such consumer any more."""
        self.trial.excuse(consumer)
        for known in (self.consumers, self.accepted, self.refused):
            known.discard(consumer)

    def is_same_role(self, grant: Grant) -> bool:
        """Tell whether `grant` is this, or this role, which stays, with another password."""
        old, new = self.grant, grant
        stays = None not in (old.lease.rotates_in, new.lease.rotates_in)
        same_user = old.credentials.username == new.credentials.username
        return old.credentials == new.credentials or (stays and same_user)
