"""The figures at the end, and whether they keep the promise."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Report", "quantile", "rotations_due", "verdict"]

_SECONDS_PER_ROTATION = 12  # the role's max_ttl: nothing lives longer
_UNREVOKED = (
    "the others expire by themselves: a revocation failed, or the machine was too busy to revoke "
    "in time"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened; the names are those of the JSON object.

    Attributes:
        source: where the credentials came from: ``api`` or ``file``.
        seconds: how long the load lasted.
        workers: how many threads made it.
        vault: name and version of the Vault.
        queries: transactions that were tried.
        failed: those that failed.
        rotations: changes of the generation that the pool uses.
        renewals: how often a lease was extended.
        mints: roles that Vault made.
        revocations: leases that were revoked.
        peak_connections: the most connections at once.
        max_connections: how many were allowed at once.
        roles_left: roles of ours in PostgreSQL at the end.
        p50_ms: median latency; ``None`` if nothing succeeded.
        p999_ms: what all but one in a thousand did not exceed.
        failures: what failed, and how often.
        unrevoked: the events of failed revocations.
        trouble: what else is wrong, with the figures or with what is left behind.
        interrupted: the signal that ended it early.
    """

    source: str
    seconds: float
    workers: int
    vault: str
    queries: int
    failed: int
    rotations: int
    renewals: int
    mints: int
    revocations: int
    peak_connections: int
    max_connections: int
    roles_left: int
    p50_ms: float | None
    p999_ms: float | None
    failures: dict[str, int] = field(default_factory=dict)
    unrevoked: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    interrupted: str | None = None

    def as_json(self) -> str:
        """Return one line of JSON, with the verdict under ``ok`` and ``problems``."""
        problems = verdict(self)
        ok = not problems and self.interrupted is None
        return json.dumps(asdict(self) | {"ok": ok, "problems": problems})

    def rows(self) -> list[tuple[str, str]]:
        """Return the table at the end: names and values."""
        return [
            ("credentials from", f"{self.source} ({self.vault})"),
            ("load", f"{self.workers} workers for {self.seconds:.0f} s"),
            ("queries", f"{self.queries}"),
            ("failed", f"{self.failed}"),
            ("rotations", f"{self.rotations} (at least {rotations_due(self.seconds)})"),
            (
                "leases",
                f"{self.mints} minted, {self.renewals} renewals, {self.revocations} revoked",
            ),
            ("connections", f"{self.peak_connections} at most (allowed {self.max_connections})"),
            ("roles left", f"{self.roles_left}"),
            ("latency", f"median {_ms(self.p50_ms)}, 99.9 % within {_ms(self.p999_ms)}"),
        ]


def quantile(durations: Sequence[float], fraction: float) -> float | None:
    """Return what `fraction` of the sorted durations did not exceed; ``None`` without any."""
    return durations[max(math.ceil(fraction * len(durations)), 1) - 1] if durations else None


def rotations_due(seconds: float) -> int:
    """Return how many rotations `seconds` of load must bring: 5 in 60, 2 in 30."""
    return math.floor(seconds / _SECONDS_PER_ROTATION)


def verdict(report: Report) -> list[str]:
    """Return what is wrong; empty if the promise was kept.

    A run that was interrupted is judged by what it did until then.
    """
    due = rotations_due(report.seconds)
    checks = [
        (report.queries > 0, "no query was run"),
        (report.failed == 0, f"{report.failed} of {report.queries} queries failed"),
        (report.rotations >= due, f"{report.rotations} rotations, {due} were due"),
        (
            report.peak_connections <= report.max_connections,
            f"{report.peak_connections} connections at once, {report.max_connections} are allowed",
        ),
        (
            # With a sidecar, leases are its business: what we see of them is the roles.
            report.source == "file" or report.revocations == report.mints,
            f"{report.revocations} of {report.mints} leases were revoked, {_UNREVOKED}",
        ),
        (report.roles_left == 0, f"{report.roles_left} roles were left in PostgreSQL"),
    ]
    return [problem for kept, problem in checks if not kept] + list(report.trouble)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} ms"
