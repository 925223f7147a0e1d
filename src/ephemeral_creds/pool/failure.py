"""Why a connect failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import AccessDenied, ConfigurationError
from ephemeral_creds.lifecycle.refusals import LoginFailure

if TYPE_CHECKING:
    from ephemeral_creds.pool.diagnosis import Verdict

__all__ = ["ConnectFailure"]


@dataclass(frozen=True, slots=True)
class ConnectFailure:
    """Why a connect failed, without the secrets that psycopg's own exception carries."""

    error: Exception
    reason: LoginFailure | None = LoginFailure.UNREACHABLE
    """``None`` where the login is not what failed, but what comes before or after it."""
    sqlstate: str | None = None
    """What the server said, where it is known: psycopg 3 has none for a failed connect."""

    @property
    def hopeless(self) -> bool:
        """Whether only a person can help."""
        return isinstance(self.error, ConfigurationError | AccessDenied)

    @property
    def refused(self) -> bool:
        """Whether other credentials may help."""
        return self.reason is LoginFailure.CREDENTIALS

    def because(self, verdict: Verdict) -> ConnectFailure:
        """Return the same failure with what was found out about it."""
        return replace(self, reason=verdict.reason, sqlstate=verdict.sqlstate)

    def with_hint(self, hint: str) -> ConnectFailure:
        """Return the same failure with more to say."""
        return replace(self, error=type(self.error)(f"{self.error} ({hint})"))
