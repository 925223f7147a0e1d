"""When credentials that have no deadline are expected to end: a hint, and what becomes of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ephemeral_creds._values import Lease

__all__ = ["ExpectedEnd"]

# Two looks at the same date differ by the time that the answers take.
_SAME = 1.0


class ExpectedEnd:
    """What the source announced and what PostgreSQL knows, and when that has to be looked into.

    Shortly before PostgreSQL's own date it is asked again, because another process may have renewed
    the credentials; only then is the end reported. Nothing else follows from it.

    Args:
        grace: how long before PostgreSQL's date, and after the source's, to look, in seconds.
        patience: how long to wait for an answer, in seconds; more than 0.

    Attributes:
        ends_at: when they are expected to end; ``inf`` if that is unknown.
        at: when to look into it: to call `due`.
    """

    def __init__(self, grace: float, patience: float) -> None:
        self.ends_at = math.inf
        self.at = math.inf
        self._grace = grace
        self._patience = patience
        self._known = False
        self._asked = False

    def note_lease(self, lease: Lease) -> None:
        """Note what the source says; PostgreSQL's word counts more, and a deadline more still."""
        at = lease.announced_end
        if lease.duration < math.inf:
            self.ends_at = self.at = math.inf
        elif not self._known and at < math.inf and abs(at - self.ends_at) > _SAME:
            self.ends_at = at
            # Not before: the next rotation of a static role is such an end, and new credentials
            # follow upon it.
            self.at = at + self._grace
            self._asked = False

    def learn(self, now: float, remaining: float) -> None:
        """Note PostgreSQL's answer of `now`: `remaining` seconds, ``inf`` for no limit."""
        at = now + remaining
        if at < math.inf and (not self._known or at > self.ends_at + _SAME):
            self.ends_at = at
            self.at = max(at - min(self._grace, max(remaining, 0.0) / 10), now)
            self._known = True
            self._asked = False
        elif self._asked and self.at < math.inf:
            # That was the answer: it is as near as it was thought to be.
            self.at = now

    def due(self, now: float, *, can_ask: bool) -> Literal["ask", "tell"] | None:
        """Return what to do about it now."""
        if now < self.at:
            return None
        if can_ask and not self._asked:
            self._asked = True
            self.at = now + self._patience
            return "ask"
        self.at = math.inf
        return "tell"
