"""Whether logins have proven new credentials, before they replace what works."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["Trial"]


@dataclass(slots=True)
class _Proof:
    """What one consumer still owes: a login. It is awaited while `ask_at` is ``inf``."""

    ask_at: float
    refusals: int = 0
    other_failures: int = 0


class Trial:
    """The proof of one candidate by a login of each consumer.

    Neither silence nor an error that is not about the credentials says anything for or against
    them. Where one consumer has logged in, others whose server does not answer hold the candidate
    up for `proof_timeout` only. One that was refused holds it up until it is accepted, since a
    replica may lag by all that is left of the credentials in use; shortly before these expire,
    another candidate is fetched instead.

    Args:
        policy: the figures to decide by.
        accepted: the consumers that have logged in; the generation's own set.
    """

    def __init__(self, policy: RefreshPolicy, accepted: Collection[int]) -> None:
        self._policy = policy
        self._accepted = accepted
        self._proofs: dict[int, _Proof] = {}
        self._wait_until = math.inf
        self._reserve = 0.0

    @property
    def at(self) -> float:
        """The instant from which it `is_passed`, or there is a consumer to `ask`."""
        if not self._proofs:
            return -math.inf
        return min(*(proof.ask_at for proof in self._proofs.values()), self._suffices_at)

    @property
    def _suffices_at(self) -> float:
        """When the logins of some consumers are proof enough."""
        return self._wait_until if self._accepted and not self._is_refused(1) else math.inf

    @property
    def is_complete(self) -> bool:
        """Whether consumers have logged in, and none that has not yet is left."""
        return bool(self._accepted) and not self._proofs

    def is_passed(self, now: float) -> bool:
        """Tell whether logins have proven it: of each consumer, or of some while others wait."""
        return self.is_complete or self._suffices_at <= now

    def start(self, remaining: float) -> None:
        """Begin, while `remaining` seconds are left of the credentials in use."""
        self._reserve = self._policy.proof_reserve(remaining)

    def ask(self, consumers: Iterable[int], now: float) -> list[int]:
        """Return which of `consumers` are to log in now, and note that they were asked."""
        if not self._proofs:
            self._proofs = {consumer: _Proof(now) for consumer in consumers}
            self._wait_until = now + self._policy.proof_timeout
        due = sorted(consumer for consumer, proof in self._proofs.items() if proof.ask_at <= now)
        for consumer in due:
            self._proofs[consumer].ask_at = math.inf
        return due

    def excuse(self, consumer: int) -> None:
        """Ask nothing of `consumer` any more: it has logged in, or left."""
        self._proofs.pop(consumer, None)

    def awaits(self, consumer: int) -> bool:
        """Tell whether `consumer` was asked and has not answered: an attempt counts once."""
        return consumer in self._proofs and self._proofs[consumer].ask_at == math.inf

    def fail(
        self, consumer: int, now: float, remaining: float, draw: float, *, blamed: bool, worse: bool
    ) -> None:
        """Have `consumer`, whose awaited login failed at `now`, try again later.

        Args:
            consumer: whose it was.
            now: the instant of the failure.
            remaining: seconds that are left of the credentials in use.
            draw: a random number from 0 to 1.
            blamed: whether the credentials may be to blame.
            worse: whether those in use are accepted from this consumer.
        """
        proof = self._proofs[consumer]
        if blamed and worse:
            failures = proof.refusals = proof.refusals + 1
        else:
            failures = proof.other_failures = proof.other_failures + 1
        delay = self._policy.proof_retry_after(failures, remaining, draw, refused=blamed)
        proof.ask_at = now + delay

    def is_hopeless(self, remaining: float) -> bool:
        """Tell whether it is still refused so late that another would only just be in time."""
        is_refused = self._is_refused(self._policy.tuning.proof_attempts)
        return is_refused and 0 < remaining <= self._reserve

    @property
    def is_stuck(self) -> bool:
        """Whether a consumer has failed to log in again and again, for whatever reason."""
        attempts = self._policy.tuning.proof_attempts
        return any(p.refusals + p.other_failures >= attempts for p in self._proofs.values())

    def _is_refused(self, attempts: int) -> bool:
        return any(proof.refusals >= attempts for proof in self._proofs.values())
