"""Why and when to fetch: a set of wishes, which one fetch answers together."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

from ephemeral_creds.lifecycle.limiter import Limiter

if TYPE_CHECKING:
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["CHANGE_BURST", "CHANGE_INTERVAL", "Reason", "Wishes"]

# One fetch is made per this many seconds because the source changed, after a burst. A file that
# is written in a loop is followed at this pace; each new version may be a rotation. No honest
# writer comes near it.
CHANGE_INTERVAL = 0.2
CHANGE_BURST = 20


class Reason(StrEnum):
    """Why new credentials are fetched; events say so in these words."""

    START = "start"
    ASKED_FOR = "asked for"
    SOURCE_CHANGED = "source changed"
    MAXIMUM_LIFETIME = "maximum lifetime"
    NOT_RENEWABLE = "not renewable"
    RENEWALS_FAIL = "renewals fail"
    LEASE_LOST = "lease lost"
    EXPIRED = "expired"
    ROTATION_DUE = "rotation due"
    LOGIN_REFUSED = "login refused"
    CANDIDATE_REFUSED = "logins refused"


class Wishes:
    """What has been wished for and not been fetched yet, each with its instant.

    A replacement that is only foreseen, for the end of a lease or a password, is not: that is the
    generation's own.

    Attributes:
        mints: whether a fetch makes the server create something, so that all are rationed.
        reason: why the last fetch was made.
        failures: how many fetches have failed in a row.
        is_fetching: whether one is in flight.
    """

    def __init__(self, policy: RefreshPolicy, *, mints: bool) -> None:
        self.mints = mints
        self.reason = Reason.START
        self.failures = 0
        self.is_fetching = False
        self._at: dict[Reason, float] = {}
        # What the last fetch is to answer, the reason for it first.
        self._fetched_for: list[Reason] = []
        self._mints = Limiter(policy.mint_interval if mints else 0.0, policy.mint_burst)
        self._changes = Limiter(CHANGE_INTERVAL, CHANGE_BURST)

    def __contains__(self, reason: Reason) -> bool:
        return reason in self._at

    @property
    def earliest(self) -> float:
        """When the first of them is due; ``inf`` without any."""
        return min(self._at.values(), default=math.inf)

    @property
    def at(self) -> float:
        """When to fetch: that, or as soon as the limiter allows."""
        return self._mints.available_at(self.earliest)

    def want(self, reason: Reason, at: float) -> None:
        """Wish for a fetch at `at`; one that is in flight will do, unless it fails."""
        if not self.is_fetching:
            self._add(reason, at)
        elif reason not in self._fetched_for:
            self._fetched_for.append(reason)

    def want_change(self, now: float) -> None:
        """Wish for what a changed source has now; a fetch in flight may bring what it had."""
        self._add(Reason.SOURCE_CHANGED, self._changes.available_at(now))

    def _add(self, reason: Reason, at: float) -> None:
        self._at[reason] = min(at, self._at.get(reason, math.inf))

    def drop(self, reason: Reason) -> None:
        """Call one wish off."""
        self._at.pop(reason, None)

    def clear(self) -> None:
        """Call all of them off."""
        self._at.clear()

    def fetch(self, now: float) -> None:
        """Note that one fetch is made at `now`, for all of them."""
        self._fetched_for = sorted(self._at, key=self._at.__getitem__)
        self.reason = self._fetched_for[0]
        self.clear()
        self.is_fetching = True
        self._mints.take(now)
        if self.reason is Reason.SOURCE_CHANGED:
            self._changes.take(now)

    def succeed(self) -> None:
        """Note that it has brought credentials."""
        self.is_fetching, self.failures = False, 0

    def fail(self) -> None:
        """Note that it has failed; unless nothing is wanted any more, `retry` follows."""
        self.is_fetching = False
        self.failures += 1

    def retry(self, at: float) -> None:
        """Wish for all that it was to answer once more: each may be called off by itself."""
        for reason in self._fetched_for:
            self.want(reason, at)
