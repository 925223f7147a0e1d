"""Why a connect failed, and when a pool connects again."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    CredentialsExpired,
    NotReady,
)
from ephemeral_creds.lifecycle.refusals import LoginFailure

if TYPE_CHECKING:
    from ephemeral_creds.pool.diagnosis import Verdict
    from ephemeral_creds.pool.policy import RotationPolicy

__all__ = ["ConnectFailure", "Reconnects"]

# Seconds before an unexplained failure is tried again.
_UNEXPLAINED = 0.25


@dataclass(frozen=True, slots=True)
class ConnectFailure:
    """Why a connect failed, without the secrets that psycopg's own exception carries."""

    error: Exception
    reason: LoginFailure | None = LoginFailure.UNREACHABLE
    """``None`` where the login is not what failed, but what comes before or after it."""
    sqlstate: str | None = None
    """What the server said, where it is known: psycopg 3 has none for a failed connect."""
    parameter: str = ""
    """For `LoginFailure.CLIENT`: the parameter that the server does not meet."""

    @property
    def hopeless(self) -> bool:
        """Whether only a person can help."""
        return isinstance(self.error, ConfigurationError | AccessDenied)

    @property
    def refused(self) -> bool:
        """Whether other credentials may help."""
        return self.reason is LoginFailure.CREDENTIALS

    @property
    def lacks_credentials(self) -> bool:
        """Whether it is worth waiting for other credentials."""
        return self.refused or isinstance(self.error, NotReady | CredentialsExpired)

    def because(self, verdict: Verdict) -> ConnectFailure:
        """Return the same failure with what was found out about it."""
        return replace(
            self,
            reason=verdict.reason,
            sqlstate=verdict.sqlstate,
            parameter=verdict.parameter,
        )

    def with_hint(self, hint: str) -> ConnectFailure:
        """Return the same failure with more to say."""
        return replace(self, error=type(self.error)(f"{self.error} ({hint})"))


class Reconnects:
    """Backs off, tries one connection first, and starts afresh with new credentials.

    psycopg_pool retries each of its connections on a plan of its own, which doubles without bound
    and cannot be told that things have changed. Its retries are held here until it is time.

    Args:
        policy: the delays.

    Attributes:
        last_failure: why the last connect failed, if none has succeeded since.
    """

    def __init__(self, policy: RotationPolicy) -> None:
        self.last_failure: ConnectFailure | None = None
        self._policy = policy
        self._failures = 0
        self._failed_generation = 0
        self._retry_at = self._release_at = -math.inf
        self._failing_since: float | None = None
        self._outage_told = False
        self._held: deque[Any] = deque()
        self._short = False

    def failed(self, failure: ConnectFailure, generation: int, now: float) -> None:
        """A connect with `generation` failed; until it is time, further ones are held.

        Connects that were under way when the first of them failed count as one failure.
        """
        if now >= self._retry_at:
            self._failures += 1
            self._retry_at = now + self._policy.retry_after(self._failures)
            self._release_at = self._retry_at
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._failed_generation = max(self._failed_generation, generation)
        self.last_failure = failure

    def explained(self, hint: str) -> None:
        """It has turned out what the last refused login lacked."""
        if self.last_failure is not None and self.last_failure.refused:
            self.last_failure = self.last_failure.with_hint(hint)

    def succeeded(self) -> None:
        """A connect succeeded: what is held may go."""
        self._start_afresh()
        self.last_failure = None
        self._failing_since, self._outage_told, self._short = None, False, False

    def renewed(self, generation: int) -> None:
        """There are new credentials: what failed with older ones says nothing of them."""
        if self._failed_generation <= generation:
            self._start_afresh()
        # A connect may take the credentials from the keeper and fail before they are published to
        # the pool: that was not with older ones.
        is_older = self._failed_generation < generation
        if is_older and self.last_failure is not None and self.last_failure.hopeless:
            # A person has helped.
            self.last_failure = None

    def barred_until(self, generation: int) -> float:
        """Return when there may be another connect with `generation`; ``-inf`` for at any time."""
        return self._retry_at if generation <= self._failed_generation else -math.inf

    def hold(self, retry: object, now: float) -> None:
        """Keep psycopg_pool's `retry` until it is time for it.

        If no connect is known to have failed, something around it did, or it was put right
        meanwhile: a moment passes in any case.
        """
        self._held.append(retry)
        self._short = True
        if not self._failures:
            self._release_at = max(self._release_at, now + _UNEXPLAINED)

    @property
    def held(self) -> int:
        """How many retries are held."""
        return len(self._held)

    @property
    def release_at(self) -> float:
        """When a retry is due; ``inf`` if none is held."""
        return self._release_at if self._held else math.inf

    def release(self, now: float) -> list[Any]:
        """Take the retries that are due: one, until a login succeeds again."""
        if self.release_at > now:
            return []
        if self._failures:
            # Until the one that is tried has an answer, or takes too long to get one.
            self._release_at = now + self._policy.retry_after(self._failures)
            return [self._held.popleft()]
        due, self._held = list(self._held), deque()
        return due

    def outage_at(self, patience: float) -> float:
        """Return when every connect will have failed for `patience` seconds.

        ``inf``: connects do not fail, or psycopg_pool lacks no connection for it, as in a rotation
        that cannot begin; or that has been told, or will never be.
        """
        since = self._failing_since
        if since is None or not self._short or self._outage_told:
            return math.inf
        return since + patience

    def take_outage(self, now: float, patience: float) -> bool:
        """Tell, once per outage, that every connect has failed for `patience` seconds."""
        due = self.outage_at(patience) <= now
        self._outage_told = self._outage_told or due
        return due

    def _start_afresh(self) -> None:
        self._failures, self._retry_at, self._release_at = 0, -math.inf, -math.inf
