"""The figures that metrics show, of keepers and of pools.

Prometheus' names and OpenTelemetry's are made from this table, so that a rule for one of them fits
the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.pool.status import PoolStatus

__all__ = [
    "KEEPER",
    "OPERATIONS",
    "OUTCOMES",
    "POOL",
    "REASONS",
    "SECONDS",
    "Figure",
    "PoolFigures",
    "Reading",
]

T = TypeVar("T")

REASONS = ("credentials", "pg_hba", "server", "client")
"""The values of ``reason`` of `LoginRejected`."""

OPERATIONS = (
    *("login", "unwrap", "lookup-token", "renew-token", "revoke-token"),
    *("mint", "read", "describe", "renew", "revoke"),
)
OUTCOMES = ("done", "refused", "failed", "unknown")
"""The values of ``operation`` and ``outcome`` of `ProviderRequest`."""

# A Vault nearby answers in 10 ms; a mint waits for PostgreSQL, and requests end after half a
# minute.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The bounds of the histogram of a provider's requests, in seconds."""


@dataclass(frozen=True, slots=True)
class Figure(Generic[T]):
    """A figure of a keeper or a pool.

    Attributes:
        name: its name in OpenTelemetry, without ``ephemeral_creds.``.
        kind: ``counter`` if it only grows, otherwise ``gauge``.
        text: what it is.
        read: returns its value by that of `label`; ``None`` if it is not known.
        unit: ``s`` for seconds, or a word in braces for a number of things.
        label: the name of its label besides keeper and pool; empty without one.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    read: Callable[[T], Mapping[str, float | None]]
    unit: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a keeper says.

    Attributes:
        status: its status.
        now: Unix time of the status, in seconds.
    """

    status: KeeperStatus
    now: float

    def instant(self, seconds: float | None) -> float | None:
        """Return the Unix time in `seconds`."""
        return None if seconds is None else self.now + seconds


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """What a pool says.

    Attributes:
        status: its status.
        stats: what ``get_stats()`` returns.
    """

    status: PoolStatus
    stats: Mapping[str, int]

    @property
    def states(self) -> dict[str, int]:
        """How many connections are idle, and how many are not."""
        idle = self.status.available
        used = sum(self.status.connections.values()) - idle
        # They are read one after the other.
        return {"idle": idle, "used": max(used, 0)}


def _one(read: Callable[[T], float | None]) -> Callable[[T], Mapping[str, float | None]]:
    return lambda source: {"": read(source)}


def _gauge(name: str, text: str, read: Callable[[T], float | None], unit: str = "") -> Figure[T]:
    return Figure(name, "gauge", text, _one(read), unit)


def _count(name: str, text: str, read: Callable[[T], float | None], unit: str) -> Figure[T]:
    return Figure(name, "counter", text, _one(read), unit)


def _stat(name: str, text: str, key: str, unit: str) -> Figure[PoolFigures]:
    """Return a counter of psycopg_pool's, which begins to exist when it is counted first."""
    scale = 1000.0 if unit == "s" else 1
    return _count(name, text, lambda pool: pool.stats.get(key, 0) / scale, unit)


KEEPER: tuple[Figure[Reading], ...] = (
    _gauge(
        "keeper.ready",
        "Whether a login is possible now.",
        lambda keeper: keeper.status.ready,
    ),
    _gauge(
        "keeper.crashed",
        "Whether the thread that renews credentials has crashed.",
        lambda keeper: keeper.status.state == "failed",
    ),
    _gauge(
        "keeper.generation",
        "The generation of credentials in use; 0 before the first.",
        lambda keeper: keeper.status.generation,
    ),
    _gauge(
        "keeper.retired_generations",
        "Generations whose connections are being replaced or whose lease is being revoked.",
        lambda keeper: len(keeper.status.retired),
    ),
    _gauge(
        "source.unusable",
        "Whether the content of the source, such as a file, cannot be used.",
        lambda keeper: keeper.status.source_error is not None,
    ),
    _gauge(
        "lease.end_timestamp",
        "Unix time after which the credentials in use cannot log in; not a number without an end.",
        lambda keeper: keeper.instant(keeper.status.expires_in),
        "s",
    ),
    _gauge(
        "lease.duration",
        "What the lease in use was granted or renewed for last; not a number without an end.",
        lambda keeper: keeper.status.lease_duration,
        "s",
    ),
    _gauge(
        "credentials.expected_end_timestamp",
        "Unix time of the expected end of credentials that have no lease.",
        lambda keeper: keeper.instant(keeper.status.ends_in),
        "s",
    ),
    _count(
        "fetches",
        "Requests for new credentials.",
        lambda keeper: keeper.status.fetches,
        "{fetch}",
    ),
    _count(
        "fetch_failures",
        "Requests for new credentials that failed.",
        lambda keeper: keeper.status.failed_fetches,
        "{fetch}",
    ),
    _count(
        "grants",
        "New credentials received; each is a minted role if the provider mints.",
        lambda keeper: keeper.status.grants,
        "{grant}",
    ),
    _count(
        "rotations",
        "Changes from one generation of credentials to the next.",
        lambda keeper: keeper.status.rotations,
        "{rotation}",
    ),
    _count(
        "lease.renewals",
        "Leases renewed.",
        lambda keeper: keeper.status.renewals,
        "{renewal}",
    ),
    _count(
        "lease.renewal_failures",
        "Renewals that failed.",
        lambda keeper: keeper.status.failed_renewals,
        "{renewal}",
    ),
    _count(
        "lease.revocations",
        "Leases revoked.",
        lambda keeper: keeper.status.revocations,
        "{revocation}",
    ),
    _count(
        "lease.revocation_failures",
        "Revocations that failed.",
        lambda keeper: keeper.status.failed_revocations,
        "{revocation}",
    ),
    Figure(
        "logins.refused",
        "counter",
        "Logins that PostgreSQL refused, or libpq before it.",
        lambda keeper: dict(keeper.status.rejected_by_reason),
        "{login}",
        "reason",
    ),
)

POOL: tuple[Figure[PoolFigures], ...] = (
    _gauge(
        "pool.ready",
        "Whether requests that need the database should be sent to this process.",
        lambda pool: pool.status.ready,
    ),
    _gauge(
        "pool.generation",
        "The generation that new connections log in with.",
        lambda pool: pool.status.generation,
    ),
    Figure(
        "pool.connections",
        "gauge",
        "Open connections.",
        lambda pool: pool.states,
        "{connection}",
        "state",
    ),
    _gauge(
        "pool.stale_connections",
        "Open connections of older generations, which wait to be replaced.",
        lambda pool: pool.status.stale,
        "{connection}",
    ),
    _gauge(
        "pool.peak_connections",
        "The most connections that were ever open, or being opened, at the same time.",
        lambda pool: pool.status.peak,
        "{connection}",
    ),
    _gauge(
        "pool.min_connections",
        "The minimum size.",
        lambda pool: pool.status.min_size,
        "{connection}",
    ),
    _gauge(
        "pool.max_connections",
        "The maximum size, without what a rotation adds.",
        lambda pool: pool.status.max_size,
        "{connection}",
    ),
    _gauge(
        "pool.waiting_requests",
        "Requests that wait for a connection.",
        lambda pool: pool.status.waiting,
        "{request}",
    ),
    _gauge(
        "pool.suspect",
        "Whether connections are tested before they are lent.",
        lambda pool: pool.status.suspect,
    ),
    _count(
        "pool.overdue_connections",
        "Connections that were borrowed at the deadline of their credentials.",
        lambda pool: pool.status.overdue,
        "{connection}",
    ),
    _stat("pool.requests", "Requests for a connection.", "requests_num", "{request}"),
    _stat(
        "pool.queued_requests",
        "Requests for a connection that had to wait.",
        "requests_queued",
        "{request}",
    ),
    _stat(
        "pool.request_failures",
        "Requests for a connection that failed: timed out, or too many waited.",
        "requests_errors",
        "{request}",
    ),
    _stat(
        "pool.request_wait",
        "Time that requests for a connection have waited, in sum.",
        "requests_wait_ms",
        "s",
    ),
    _stat("pool.usage", "Time that connections were borrowed for, in sum.", "usage_ms", "s"),
    _stat("pool.connects", "Connects.", "connections_num", "{connect}"),
    _stat("pool.connect_failures", "Connects that failed.", "connections_errors", "{connect}"),
    _stat("pool.connect", "Time that connects have taken, in sum.", "connections_ms", "s"),
    _stat(
        "pool.lost_connections",
        "Connections that were found broken.",
        "connections_lost",
        "{connection}",
    ),
    _stat(
        "pool.broken_returns",
        "Connections that were returned broken.",
        "returns_bad",
        "{connection}",
    ),
)
