"""What the lifecycle machine remembers of one grant, and what follows from that alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._expected_end import ExpectedEnd
    from ephemeral_creds._policy import RefreshPolicy
    from ephemeral_creds._values import Grant

__all__ = ["Generation", "Proof", "Stage"]


class Stage(Enum):
    """Where a grant is on its way; `_lifecycle` draws it."""

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


@dataclass(slots=True)
class Generation:
    """One grant, as long as the machine has anything to do with it."""

    grant: Grant
    asked: float
    """What the server gave at first: a renewal that brings less announces the end."""
    holders: set[int]
    """The pools that may have connections of it."""
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
    publish_at: float = math.inf
    """When to do without the proofs of pools whose server does not answer."""
    remedy_since: float = -math.inf
    """When it came, where it was fetched because logins were refused."""
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

    def settle_proofs(self) -> None:
        """Demand no proof any more: it is published, or will never be."""
        self.proofs.clear()
        self.publish_at = math.inf

    def is_publishable(self, now: float) -> bool:
        """Tell whether it may be published: proven, or nobody can be asked and nobody refused."""
        return not self.proofs or self._unproven_at() <= now

    def proofs_due(self, now: float) -> list[int]:
        """Return the pools that are to log in now, and note that they have been asked."""
        due = sorted(pool for pool, proof in self.proofs.items() if proof.ask_at <= now)
        for pool in due:
            self.proofs[pool].ask_at = math.inf
        return due

    def next_look(self) -> float:
        """Return the instant at which `proofs_due` or `is_publishable` changes by itself."""
        return min([proof.ask_at for proof in self.proofs.values()] + [self._unproven_at()])

    def _unproven_at(self) -> float:
        """Return when it is published unproven: a pool that was refused rules that out."""
        refused = any(proof.refusals for proof in self.proofs.values())
        return math.inf if refused else self.publish_at

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
        return soon if self.unchanged < policy.rotation_attempts else max(at, soon)

    def count_unchanged(self, policy: RefreshPolicy, now: float, *, refused: bool) -> None:
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
        watching = 0 < self.unchanged < policy.rotation_attempts
        self.unchanged = self.unchanged + 1 if due or watching else 0

    def is_other_password(self, grant: Grant) -> bool:
        """Tell whether `grant` is this very role with another password."""
        same_user = grant.credentials.username == self.grant.credentials.username
        return same_user and None not in (grant.lease.rotates_in, self.grant.lease.rotates_in)
