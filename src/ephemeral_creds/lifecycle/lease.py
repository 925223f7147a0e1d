"""When a lease is renewed and, if that fails or comes to an end, replaced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds.lifecycle.wishes import Reason

if TYPE_CHECKING:
    from ephemeral_creds._values import Lease
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["Renewal"]

# When renewals fail: the fraction of the remaining time after which to mint instead. Half of what
# is left is for renewing, the other half for minting and moving.
_ESCALATE_AT = 0.5


class Renewal:
    """The renewals of one lease.

    Attributes:
        at: when to renew it.
        replace_at: when to fetch another one, while this is the one in use.
        replace_reason: why.
        initial_duration: what the server gave at first.
        failures: how many renewals have failed in a row.
    """

    def __init__(self, policy: RefreshPolicy, initial_duration: float) -> None:
        self.at = self.replace_at = math.inf
        self.replace_reason = Reason.NOT_RENEWABLE
        self.initial_duration = initial_duration
        self.failures = 0
        self._policy = policy

    def schedule(self, lease: Lease, draw: float) -> None:
        """Plan what comes next: a renewal or, if `lease` allows none, a replacement."""
        at = lease.requested_at + self._policy.renew_after(lease.duration, draw)
        self.at = at if lease.renewable else math.inf
        self.replace_at = math.inf if lease.renewable else at
        self.replace_reason = Reason.NOT_RENEWABLE
        self.failures = 0

    def is_shortened(self, lease: Lease) -> bool:
        """Tell whether a renewal's answer says that the maximum is near."""
        return self._policy.is_shorter(lease.duration, self.initial_duration)

    def fail(self, now: float, delay: float, remaining: float) -> None:
        """Plan the next attempt and, at the first failure, the replacement."""
        self.failures += 1
        self.at = now + delay
        if self.failures == 1:
            self.replace_at = now + remaining * _ESCALATE_AT
            self.replace_reason = Reason.RENEWALS_FAIL

    def stop(self) -> None:
        """Renew it no more."""
        self.at = math.inf
