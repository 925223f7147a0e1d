"""Which connections may be lent without a test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds.events import ValidUntilPassed

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ephemeral_creds._values import Grant, Lease

__all__ = ["Trust"]


class Trust:
    """Generations whose role may be gone, and deadlines after which it may be.

    Args:
        always_vet: whether a checkout has more to do than psycopg_pool's own in any case.

    Attributes:
        until: the instant, on the keeper's clock, up to which no checkout needs a test: the first
            deadline of a generation that connections are open of; ``-inf`` if one needs it now.
        expired_through: the last generation that is past its deadline; 0 if none is.
    """

    def __init__(self, *, always_vet: bool) -> None:
        self.until = -math.inf
        self.expired_through = 0
        self._always_vet = always_vet
        self._suspects: set[int] = set()
        self._leases: dict[int, Lease] = {}
        self._refused: set[int] = set()
        self._valid_until_passed: ValidUntilPassed | None = None

    def learn(self, grant: Grant) -> None:
        """`grant` is in use, or its lease was renewed: the later request tells the deadline."""
        known = self._leases.setdefault(grant.generation, grant.lease)
        if grant.lease.requested_at >= known.requested_at:
            self._leases[grant.generation] = grant.lease
        if grant.generation == self.expired_through:
            # It was renewed after all: one test tells.
            self.expired_through = 0
        self._update()

    def knows(self, generation: int) -> bool:
        """Tell whether `generation` has been in use."""
        return generation in self._leases

    def expire(self, generation: int) -> None:
        """`generation`, and what came before it, is past its deadline."""
        self.expired_through = max(self.expired_through, generation)

    def expired(self, now: float) -> int:
        """Return the last generation past its deadline that is not suspected yet; 0 for none."""
        late = [g for g, lease in self._leases.items() if lease.expires_at <= now]
        return max((g for g in late if g not in self._suspects), default=0)

    def suspect(self, generations: Iterable[int]) -> None:
        """Have connections of these tested before they are lent."""
        self._suspects.update(generations)
        self._update()

    def is_suspect(self, generation: int) -> bool:
        """Tell whether connections of `generation` have to be tested."""
        return generation in self._suspects

    def clear(self, generation: int) -> None:
        """A test has succeeded: that clears `generation`, unless it is past its deadline.

        The server may drop the role at any time then.
        """
        if generation > self.expired_through:
            self._suspects.discard(generation)
            self._update()

    def forget(self, serving: int, counts: Container[int]) -> None:
        """Forget old generations that there are no connections of any more."""
        # Of the generation in use there may be none for a moment; of older ones none come.
        self._suspects = {g for g in self._suspects if g in counts or g >= serving}
        self._leases = {g: v for g, v in self._leases.items() if g in counts or g >= serving}
        self._update()

    # -- why PostgreSQL refuses a role whose lease has time left ---------------------------

    def refuse(self, generation: int) -> str:
        """A login was refused: return the remedy, if a session of the same role has told why."""
        answer = self._valid_until_passed
        if answer is not None and answer.generation == generation:
            return answer.remedy
        self._refused.add(generation)
        return ""

    def wants_valid_until(self, generation: int) -> bool:
        """Tell whether a login was refused, and no session has been asked for the reason."""
        return generation in self._refused

    def valid_until(
        self, generation: int, remaining: float | None, now: float
    ) -> ValidUntilPassed | None:
        """A session was told that its role may log in for `remaining` seconds; return the reason.

        ``None`` if it is another one: there is no limit, or the lease is past it as well.
        """
        self._refused.discard(generation)
        lease = self._leases.get(generation)
        expires_in = math.inf if lease is None else lease.expires_at - now
        if remaining is None or remaining > 0.0 or not 0.0 < expires_in < math.inf:
            return None
        self._valid_until_passed = ValidUntilPassed(
            generation=generation, ends_in=remaining, expires_in=expires_in
        )
        return self._valid_until_passed

    def _update(self) -> None:
        ends = [lease.expires_at for g, lease in self._leases.items() if g not in self._suspects]
        vet = self._always_vet or self._suspects or not self._leases
        self.until = -math.inf if vet else min(ends, default=math.inf)
