"""Leases: registered, prolonged, revoked, and ended when their time or their token is up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Refusal,
    capped,
    iso_time,
    left,
    random_text,
)
from ephemeral_creds.testing._emulator.database.postgres import DatabaseTrouble

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator.database.engine import DatabaseMount

__all__ = ["Lease", "LeaseStore"]

_FIRST_RETRY = 20.0  # seconds after a revocation that failed; doubles each time
_RETRIES = 6
_NO_RESPONSE = "resp: (*logical.Response)(nil) err:"


@dataclass(slots=True, kw_only=True)
class Lease:
    """One set of credentials that was handed out; instants are Unix times in seconds."""

    id: str
    mount: DatabaseMount
    role: str
    username: str
    token_id: str = field(repr=False)
    issued_at: float
    expires_at: float
    token_expires_at: float  # inf but for batch tokens, which cap their leases
    connection: str
    revocation: list[str]
    renewed_at: float | None = None
    retry_at: float = 0.0
    failures: int = 0

    def lookup(self, now: float) -> dict[str, Any]:
        """Return what ``sys/leases/lookup`` shows."""
        return {
            "expire_time": iso_time(self.expires_at),
            "id": self.id,
            "issue_time": iso_time(self.issued_at),
            "last_renewal": None if self.renewed_at is None else iso_time(self.renewed_at),
            "renewable": True,
            "ttl": math.ceil(self.expires_at - now),
        }


class LeaseStore:
    """All leases. Locks only for its own bookkeeping, never while PostgreSQL works.

    Args:
        now: Unix time in seconds.
        lock: the emulator's.
    """

    def __init__(self, now: Callable[[], float], lock: threading.RLock) -> None:
        self._now = now
        self._lock = lock
        self._leases: dict[str, Lease] = {}

    def register(self, path: str, token: Token, **fields: Any) -> Lease:
        """Add a lease below `path` and return it."""
        now = self._now()
        cap = token.expires_at if token.batch else math.inf
        lease = Lease(
            id=f"{path}/{random_text(24)}",
            token_id=token.id,
            issued_at=now,
            expires_at=min(now + fields.pop("ttl"), cap),
            token_expires_at=cap,
            **fields,
        )
        with self._lock:
            self._leases[lease.id] = lease
        return lease

    def find(self, lease_id: str) -> Lease | None:
        """Return a lease, whatever its state."""
        with self._lock:
            return self._leases.get(lease_id)

    def below(self, prefix: str) -> list[Lease]:
        """Return the leases whose ids start with `prefix`."""
        with self._lock:
            return [lease for lease in self._leases.values() if lease.id.startswith(prefix)]

    def renew(self, lease_id: str, increment: float) -> tuple[int, list[str] | None]:
        """Prolong a lease and return its new duration in seconds, and warnings."""
        lease = self.find(lease_id)
        now = self._now()
        if lease is None:
            raise Refusal(400, "lease not found")
        if lease.failures >= _RETRIES:
            raise Refusal(400, "lease is expired and has failed previous revocation attempts")
        if lease.expires_at <= now:
            raise Refusal(400, "lease expired")
        role = lease.mount.role_of(lease.role)
        if role is None:
            raise Refusal(
                400,
                f"failed to renew entry: {_NO_RESPONSE} error during renew: could not find "
                f'role with name "{lease.role}"',
            )
        wanted = increment or role.default_ttl or SYSTEM_MAX_TTL
        limit = left(lease.issued_at + (role.max_ttl or SYSTEM_MAX_TTL), now)
        if limit <= 0:
            raise Refusal(
                400, f"failed to renew entry: {_NO_RESPONSE} past the max TTL, cannot renew"
            )
        warnings = None
        if wanted > limit:
            warnings = [capped(wanted, limit)]
        ttl = min(wanted, limit, lease.token_expires_at - now)
        try:
            lease.mount.renew(lease.role, lease.username, ttl)
        except DatabaseTrouble as error:
            text = f"1 error occurred:\n\t* {error}\n\n"
            raise Refusal(400, f"failed to renew entry: {_NO_RESPONSE} {text}") from None
        with self._lock:
            lease.expires_at = now + ttl
            lease.renewed_at = now
        return round(ttl), warnings

    def revoke(self, lease_id: str) -> None:
        """End a lease now; an unknown one is as good as ended."""
        lease = self.find(lease_id)
        if lease is None:
            return
        try:
            lease.mount.drop(lease.role, lease.connection, lease.revocation, lease.username)
        except DatabaseTrouble as error:
            raise Refusal(400, f"failed to revoke entry: {_NO_RESPONSE} {error}") from None
        with self._lock:
            self._leases.pop(lease_id, None)

    def end_soon(self, lease: Lease) -> None:
        """Let a lease end at the next look at the clock."""
        with self._lock:
            lease.expires_at = min(lease.expires_at, self._now())

    def end_of_token(self, token: Token) -> None:
        """Let every lease of a token end; those of a batch token just run out."""
        if token.batch:
            return
        with self._lock:
            for lease in self._leases.values():
                if lease.token_id == token.id:
                    self.end_soon(lease)

    def expire(self) -> None:
        """Drop the roles of all leases whose time has come."""
        now = self._now()
        with self._lock:
            due = [
                lease
                for lease in self._leases.values()
                if lease.expires_at <= now and lease.retry_at <= now and lease.failures < _RETRIES
            ]
        for lease in due:
            try:
                lease.mount.drop(lease.role, lease.connection, lease.revocation, lease.username)
            except DatabaseTrouble:
                lease.retry_at = now + _FIRST_RETRY * 2**lease.failures
                lease.failures += 1
                continue
            with self._lock:
                self._leases.pop(lease.id, None)
