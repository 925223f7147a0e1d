"""When the password of a role that stays is read again: the server changes it, or it is a token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._values import Lease
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["PasswordReading"]

# Readings of a password that should have changed, before the announcement is believed. With growing
# pauses these take some seconds, and Vault's own clock for rotations ticks every five.
_ATTEMPTS = 4


class PasswordReading:
    """The readings of one role's password; `at` is the instant of the next."""

    def __init__(self, policy: RefreshPolicy) -> None:
        self.at = math.inf
        self._policy = policy
        # How many times in a row it was the same although it should have changed.
        self._unchanged = 0

    def schedule(self, lease: Lease, now: float, draw: float) -> None:
        """Plan the reading that follows one at `now`; none if the server changes nothing."""
        if lease.rotates_in is None:
            self.at = math.inf
            return
        after = self._policy.read_again_after(lease.rotates_in, draw)
        # A fleet that was deployed together does not ask together.
        again = lease.ask_again_in * (1 - self._policy.jitter * draw)
        # Another token comes before the end of this one, as the lease of a role is renewed.
        ends = lease.announced_duration if lease.is_token else math.inf
        at = lease.requested_at + min(after, again, self._policy.renew_after(ends, draw))
        # A slow answer may arrive when the next one is due: not in a loop.
        self.at = max(at, now + self._policy.retry_initial)
        if self._unchanged:
            soon = now + self._policy.retry_after(self._unchanged, draw)
            # For some seconds the password may lag behind what the server says about it.
            lags = self._unchanged < _ATTEMPTS
            self.at = soon if lags else max(self.at, soon)

    def note_same(self, before: Lease, now: float, *, refused: bool) -> None:
        """Count a password that is still the same at `now` although it should have changed.

        The server changes it late, or in the database before it lets us know. The announcement
        `before` decides: the new one may be ahead of the password. If a login was `refused`, it
        should have changed as well.
        """
        rotates_in = before.rotates_in
        is_due = rotates_in is not None and (refused or now >= before.requested_at + rotates_in)
        is_watched = 0 < self._unchanged < _ATTEMPTS
        self._unchanged = self._unchanged + 1 if is_due or is_watched else 0

    def note_change(self) -> None:
        """There is another password: the next one is looked for as eagerly as this was."""
        self._unchanged = 0
