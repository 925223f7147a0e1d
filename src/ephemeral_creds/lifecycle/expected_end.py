"""When credentials that have no deadline are expected to end: a hint, and what becomes of it."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["ExpectedEnd"]

# Two looks at the same date differ by the time that the answers take.
_SAME = 1.0


class ExpectedEnd:
    """What the source announced and what PostgreSQL knows, and when that has to be looked into.

    Shortly before PostgreSQL's own date it is asked again, because the credentials may have been
    renewed behind our back, and only then somebody is told. Nothing else follows from it.

    Args:
        grace: how long before PostgreSQL's date, and after the source's, to look, in seconds.
        patience: how long to wait for an answer, in seconds; more than 0.

    Attributes:
        at: the instant; ``inf`` where nobody knows.
        look_at: the instant at which to call `due`.
    """

    def __init__(self, grace: float, patience: float) -> None:
        self.at = math.inf
        self.look_at = math.inf
        self._grace = grace
        self._patience = patience
        self._known = False
        self._asked = False

    def announce(self, at: float) -> None:
        """The source says so; PostgreSQL's word counts more."""
        if self._known or at == math.inf or abs(at - self.at) <= _SAME:
            return
        self.at = at
        # Not before: the next rotation of a static role is such an end, and new credentials
        # follow upon it.
        self.look_at = at + self._grace
        self._asked = False

    def learn(self, now: float, remaining: float) -> None:
        """PostgreSQL says so, at `now`: so many seconds more, ``inf`` for no limit."""
        at = now + remaining
        if at < math.inf and (not self._known or at > self.at + _SAME):
            self.at = at
            self.look_at = max(at - min(self._grace, max(remaining, 0.0) / 10), now)
            self._known = True
            self._asked = False
        elif self._asked and self.look_at < math.inf:
            # That was the answer: it is as near as it was thought to be.
            self.look_at = now

    def forget(self) -> None:
        """There is a deadline now."""
        self.at = self.look_at = math.inf

    def due(self, now: float, *, can_ask: bool) -> Literal["ask", "tell"] | None:
        """Return what to do about it now."""
        if now < self.look_at:
            return None
        if can_ask and not self._asked:
            self._asked = True
            self.look_at = now + self._patience
            return "ask"
        self.look_at = math.inf
        return "tell"
