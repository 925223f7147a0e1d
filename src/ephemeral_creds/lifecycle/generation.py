"""What the lifecycle machine remembers of one grant, and what follows from that alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._values import Grant
    from ephemeral_creds.lifecycle.expected_end import ExpectedEnd
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["Generation", "Proof", "Stage"]

# Looks at a password that should have changed, before the announcement is believed. With growing
# pauses these take some seconds, and Vault's own clock for rotations ticks every five.
_ROTATION_ATTEMPTS = 4


class Stage(Enum):
    """Where a grant is on its way; `lifecycle.machine` draws it."""

    CANDIDATE = "candidate"
    CURRENT = "current"
    RETIRED = "retired"
    RETURNING = "returning"


@dataclass(slots=True)
class Proof:
    """What one pool still owes: a login with a candidate."""

    ask_at: float
    """When to ask for it; ``inf`` while the answer is awaited."""
    refusals: int = 0
    """How often these credentials were refused."""
    others: int = 0
    """How often the login failed for another reason, which says nothing about them."""

    def count(self, *, refused: bool) -> int:
        """Count a login that failed, and return how many failed of its kind."""
        if refused:
            self.refusals += 1
            return self.refusals
        self.others += 1
        return self.others


@dataclass(slots=True)
class Generation:
    """One grant, as long as the machine has anything to do with it."""

    grant: Grant
    asked: float
    """What the server gave at first: a renewal that brings less announces the end."""
    holders: set[int]
    """The pools that may have connections of it."""
    came_at: float
    """When it arrived."""
    end: ExpectedEnd
    """When it is expected to end although nobody promised it."""
    shared: bool
    """Whether pools ever held it. Without them nobody says when it is no longer in use."""
    stage: Stage = Stage.CANDIDATE
    due_at: float = math.inf
    """When to renew it or, in RETURNING, to revoke it."""
    failures: int = 0
    lapsed: bool = False
    announced: bool = False
    replace_at: float = math.inf
    """When to fetch another one, while this is the one in use."""
    replace_reason: str = ""
    proofs: dict[int, Proof] = field(default_factory=dict)
    """By pool: those that have not logged in with it yet."""
    accepted: set[int] = field(default_factory=set)
    """The pools that have logged in with it, and were not refused since."""
    refused: set[int] = field(default_factory=set)
    """The pools that were refused with it, and have not logged in since."""
    publish_at: float = math.inf
    """When to do without the proofs of some pools, if no login of theirs was refused."""
    reserve: float = 0.0
    """How long before the end of the one in use it is given up if it is still refused."""
    read_at: float = math.inf
    """When to read its password again, where the server changes that."""
    unchanged: int = 0
    """So many times in a row it was the same although it should have changed."""

    @property
    def number(self) -> int:
        """Its place among the keeper's grants, counted from 1."""
        return self.grant.generation

    @property
    def expires_at(self) -> float:
        """Its deadline."""
        return self.grant.lease.expires_at

    def announced_at(self, policy: RefreshPolicy) -> float:
        """Return when pools are told that it is about to end, once it has been replaced."""
        if self.stage is not Stage.RETIRED or self.announced:
            return math.inf
        return self.expires_at - policy.grace_of(self.asked)

    # -- proof -----------------------------------------------------------------------------

    def demand_proofs(self, pools: set[int], now: float, publish_at: float) -> None:
        """Have each of `pools` log in with it before it is published."""
        self.proofs = {pool: Proof(ask_at=now) for pool in pools}
        self.publish_at = publish_at

    def accept(self, pool: int) -> None:
        """Note that `pool` has logged in with it."""
        self.proofs.pop(pool, None)
        self.accepted.add(pool)
        self.refused.discard(pool)

    def refuse(self, pool: int) -> None:
        """Note that `pool` was refused with it, while it was in use."""
        self.accepted.discard(pool)
        self.refused.add(pool)

    def leave(self, pool: int) -> None:
        """Note that there is no such pool any more."""
        self.proofs.pop(pool, None)
        self.accepted.discard(pool)
        self.refused.discard(pool)

    @property
    def is_proven(self) -> bool:
        """Whether pools have logged in with it, and none that has not yet is left."""
        return bool(self.accepted) and not self.proofs

    def is_refused(self, attempts: int) -> bool:
        """Tell whether a pool was refused that often at least, and has not been let in."""
        return any(proof.refusals >= attempts for proof in self.proofs.values())

    def is_stuck(self, attempts: int) -> bool:
        """Tell whether a pool has failed to log in that often, for whatever reason."""
        return any(p.refusals + p.others >= attempts for p in self.proofs.values())

    def settle_proofs(self) -> None:
        """Demand no proof any more: it is published, or will never be."""
        self.proofs.clear()
        self.publish_at = math.inf

    def is_publishable(self, now: float) -> bool:
        """Tell whether logins have proven it: of each pool, or of some while the others wait."""
        return self.is_proven or self._incomplete_at() <= now

    def proofs_due(self, now: float) -> list[int]:
        """Return the pools that are to log in now, and note that they have been asked."""
        due = sorted(pool for pool, proof in self.proofs.items() if proof.ask_at <= now)
        for pool in due:
            self.proofs[pool].ask_at = math.inf
        return due

    def next_look(self) -> float:
        """Return the instant at which `proofs_due` or `is_publishable` changes by itself."""
        return min([proof.ask_at for proof in self.proofs.values()] + [self._incomplete_at()])

    def _incomplete_at(self) -> float:
        """Return when the logins of some pools are proof enough."""
        return self.publish_at if self.accepted and not self.is_refused(1) else math.inf

    # -- a password that the server changes ------------------------------------------------

    def next_read(self, policy: RefreshPolicy, now: float, draw: float) -> float:
        """Return when to read its password again; ``inf`` where the server does not change it.

        Args:
            policy: the figures to decide by.
            now: the instant of the last look.
            draw: a random number from 0 to 1.
        """
        lease = self.grant.lease
        if lease.rotates_in is None:
            return math.inf
        after = policy.read_again_after(lease.rotates_in, draw)
        at = lease.requested_at + min(after, lease.ask_again_in)
        # A slow answer may arrive when the next one is due: not in a loop.
        at = max(at, now + policy.retry_initial)
        if not self.unchanged:
            return at
        soon = now + policy.retry_after(self.unchanged, draw)
        # For some seconds the password may lag behind what the server says about it.
        return soon if self.unchanged < _ROTATION_ATTEMPTS else max(at, soon)

    def count_unchanged(self, now: float, *, refused: bool) -> None:
        """Count how often a password is still the same although it should have changed.

        The server changes it late, or in the database before it lets us know. Whether it counts is
        decided by what was announced before: the new announcement may be ahead of the password.

        Args:
            policy: the figures to decide by.
            now: the instant of the look.
            refused: whether it was read because a login with it was refused.
        """
        lease = self.grant.lease
        due = lease.rotates_in is not None and (
            refused or now >= lease.requested_at + lease.rotates_in
        )
        watching = 0 < self.unchanged < _ROTATION_ATTEMPTS
        self.unchanged = self.unchanged + 1 if due or watching else 0

    def is_other_password(self, grant: Grant) -> bool:
        """Tell whether `grant` is this very role with another password."""
        same_user = grant.credentials.username == self.grant.credentials.username
        return same_user and None not in (grant.lease.rotates_in, self.grant.lease.rotates_in)
