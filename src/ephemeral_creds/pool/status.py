"""What a pool tells health endpoints and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.pool.rotation import Rotation

__all__ = ["PoolStatus", "lease_stats", "pool_status"]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A snapshot of a pool: plain values and no secret.

    Attributes:
        name: the pool's name.
        ready: whether requests that need the database should be sent to this process. True
            while the pool is open and has a connection; without one, while it has credentials, no
            connect has failed since one succeeded, and none is waiting for an answer. An outage
            of Vault alone does not make it false. A pool that keeps no connections is not ready
            from a failed connect until another one is worth a try, 10 seconds later at most.
        generation: the generation that new connections log in with; 0 before the first.
        expires_in: seconds until its deadline; ``None`` if it has none.
        connections: how many connections are open, by generation.
        stale: how many of them are of older generations, and wait to be replaced.
        available: how many are idle.
        waiting: how many requests wait for a connection.
        min_size: the pool's minimum size.
        max_size: the pool's maximum size, without what a rotation adds.
        peak: the most connections that were ever open, or being opened, at the same time.
        suspect: whether connections are tested before they are lent.
        last_error: why the last connect failed; ``None`` if it succeeded.
        last_error_reason: the reason as one word: ``credentials``, ``pg_hba``, ``server`` or
            ``client``, as in `LoginRejected`, or ``unreachable``; ``None`` if the connect
            succeeded, or if something other than the login failed, such as ``configure=``.
        last_error_sqlstate: the server's code, such as ``53300``; ``None`` if it is not known.
        keeper: the keeper's own status.
        overdue: how many connections were borrowed at their deadline so far; see
            `BorrowedAtDeadline`.
    """

    name: str
    ready: bool
    generation: int
    expires_in: float | None
    connections: dict[int, int]
    stale: int
    available: int
    waiting: int
    min_size: int
    max_size: int
    peak: int
    suspect: bool
    last_error: str | None
    last_error_reason: str | None
    last_error_sqlstate: str | None
    keeper: KeeperStatus
    overdue: int = 0


def pool_status(
    name: str, closed: bool, rotation: Rotation[Any], keeper: Keeper, stats: Mapping[str, int]
) -> PoolStatus:
    """Put a pool's status together."""
    status = keeper.status()
    overview = rotation.overview
    connections, failure = overview.connections, overview.failure
    # One that has no answer yet, if nothing is open: the server may be silent.
    doubtful = failure is not None or overview.size > 0
    if not rotation.keeps:
        # Only a request finds out that a connect succeeds again.
        doubtful = rotation.barred(monotonic())
    return PoolStatus(
        name=name,
        ready=not closed and bool(connections or (status.ready and not doubtful)),
        generation=rotation.serving,
        expires_in=status.expires_in,
        connections=connections,
        stale=overview.stale,
        available=stats["pool_available"],
        waiting=stats.get("requests_waiting", 0),
        min_size=stats["pool_min"],
        max_size=stats["pool_max"],
        peak=overview.peak,
        suspect=rotation.is_suspect(rotation.serving),
        last_error=str(failure.error) if failure is not None else None,
        last_error_reason=failure.reason.value if failure and failure.reason else None,
        last_error_sqlstate=failure.sqlstate if failure is not None else None,
        keeper=status,
        overdue=rotation.overdue,
    )


def lease_stats(rotation: Rotation[Any], keeper: Keeper) -> dict[str, int]:
    """Return what ``get_stats()`` has beyond psycopg_pool's."""
    status = keeper.status()
    stats = {
        "lease_generation": rotation.serving,
        "lease_mints": status.grants,
        "lease_renewals": status.renewals,
        "lease_revocations": status.revocations,
        "lease_rejected_logins": status.rejected_logins,
        "connections_stale": rotation.overview.stale,
    }
    if status.expires_in is not None:
        stats["lease_expires_in"] = int(status.expires_in)
    return stats
