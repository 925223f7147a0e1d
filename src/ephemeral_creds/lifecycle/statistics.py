"""How often things happened, and what failed last: read off the machine's actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ephemeral_creds import events
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle.refusals import LoginFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Counts", "Statistics", "error_text"]


@dataclass(slots=True)
class Counts:
    """How often things happened since the start; see `KeeperStatus`."""

    fetches: int = 0
    grants: int = 0
    renewals: int = 0
    revocations: int = 0
    rotations: int = 0
    rejected_logins: int = 0
    failed_fetches: int = 0
    failed_renewals: int = 0
    failed_revocations: int = 0
    # Of all reasons from the start, so that a metric of each begins at zero.
    rejected_by_reason: dict[str, int] = field(
        default_factory=lambda: {
            each.value: 0 for each in LoginFailure if each is not LoginFailure.UNREACHABLE
        }
    )


class Statistics:
    """What has happened so far. No rule depends on it.

    Attributes:
        counts: how often.
        last_error: the last failure of an operation.
        last_failure: the last failure in words, be it of an operation or of the source.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.last_error: Exception | None = None
        self.last_failure: str | None = None

    def note_error(self, error: Exception) -> None:
        """Note why an operation has failed."""
        self.last_error, self.last_failure = error, error_text(error)

    def count(self, actions: Iterable[a.Action], issued: int) -> None:
        """Count what `actions` tell; `issued` is the number of grants so far."""
        counts = self.counts
        counts.grants = issued
        for action in actions:
            match action:
                case a.Fetch():
                    counts.fetches += 1
                case a.Report(events.LeaseRenewed()):
                    counts.renewals += 1
                case a.Report(events.LeaseRevoked()):
                    counts.revocations += 1
                case a.Report(events.CredentialsPublished(previous=int())):
                    counts.rotations += 1
                case a.Report(events.LoginRejected(reason=reason)):
                    counts.rejected_logins += 1
                    by_reason = counts.rejected_by_reason
                    by_reason[reason] = by_reason.get(reason, 0) + 1
                case a.Report(events.FetchFailed()):
                    counts.failed_fetches += 1
                case a.Report(events.RenewalFailed()):
                    counts.failed_renewals += 1
                case a.Report(events.RevocationFailed()):
                    counts.failed_revocations += 1
                case a.Report(events.SourceUnusable(error=error)):
                    self.last_failure = error
                case _:
                    pass


def error_text(error: Exception) -> str:
    """Return the kind of an error and what it says."""
    return f"{type(error).__name__}: {error}"
