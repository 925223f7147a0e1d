"""What a keeper tells health endpoints and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["KeeperStatus"]


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """A snapshot of a keeper, fit for a health endpoint: plain values and no secret.

    Attributes:
        name: the keeper's name.
        provider: where the credentials come from.
        state: ``new``, ``acquiring`` (nothing to log in with), ``serving``, ``closing``,
            ``closed`` (also in the child of a fork), or ``failed`` if the keeper's thread has
            crashed: what is in use works until its deadline, and nothing replaces it.
        ready: whether a login is possible right now.
        generation: the generation in use; 0 before the first.
        username: its user name.
        expires_in: seconds until its deadline; ``None`` if it has none, negative after it.
        retired: generations whose connections are being replaced or whose lease is being
            revoked.
        fetches: requests for new credentials.
        grants: new credentials received; each is a minted role if the provider mints.
        renewals: leases renewed.
        revocations: leases revoked.
        rotations: changes from one generation to the next.
        rejected_logins: logins that PostgreSQL answered with an error, whatever the reason.
        failed_fetches: requests for credentials that failed.
        failed_renewals: renewals that failed.
        failed_revocations: revocations that failed.
        last_error: text of the last failure, also after a success; ``None`` if there was none.
        ends_in: seconds until the expected end of credentials that have no lease and thus no
            ``expires_in``, by ``VALID UNTIL`` in PostgreSQL or by the source. Negative if they
            are past it and still in use, since there are no others. ``None`` if it is not
            known.
        source_error: why the source cannot be used now, while older credentials are in use: its
            file is malformed, for example. ``None`` if it can, and in the first three seconds.
        lease_duration: seconds for which the lease in use was granted or renewed last; ``None``
            if it has no end.
        rejected_by_reason: `rejected_logins` by ``reason`` of `LoginRejected`.
    """

    name: str
    provider: str
    state: str
    ready: bool
    generation: int
    username: str | None
    expires_in: float | None
    retired: tuple[int, ...]
    fetches: int
    grants: int
    renewals: int
    revocations: int
    rotations: int
    rejected_logins: int
    failed_fetches: int
    failed_renewals: int
    failed_revocations: int
    last_error: str | None
    ends_in: float | None = None
    source_error: str | None = None
    lease_duration: float | None = None
    rejected_by_reason: dict[str, int] = field(default_factory=dict)
