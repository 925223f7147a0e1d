"""Tokens: how long they live, what dies with them."""

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
    one_error,
    random_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Token", "TokenStore"]


@dataclass(slots=True, kw_only=True)
class Token:
    """One token; instants are Unix times in seconds."""

    id: str = field(repr=False)
    policies: list[str]
    path: str
    display_name: str
    issued_at: float
    expires_at: float = math.inf
    ttl: float = 0.0
    wish: float = 0.0  # seconds for a renewal that names none
    max_ttl: float = SYSTEM_MAX_TTL
    explicit_max_ttl: float = 0.0
    period: float = 0.0
    num_uses: int = 0
    renewable: bool = True
    batch: bool = False
    parent: str | None = field(default=None, repr=False)
    metadata: dict[str, str] | None = None
    entity_id: str = ""
    accessor: str = field(default_factory=lambda: random_text(24))
    spent: bool = False
    renewed_at: float | None = None

    @property
    def kind(self) -> str:
        """``service`` or ``batch``."""
        return "batch" if self.batch else "service"

    def limit(self) -> float:
        """Return the instant after which no renewal may put the expiry."""
        if self.explicit_max_ttl:
            return self.issued_at + self.explicit_max_ttl
        return math.inf if self.period else self.issued_at + self.max_ttl

    def auth(self, now: float) -> dict[str, Any]:
        """Return the ``auth`` block of an answer."""
        endless = self.expires_at == math.inf
        return {
            "client_token": self.id,
            "accessor": "" if self.batch else self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.metadata,
            "lease_duration": 0 if endless else round(self.expires_at - now),
            "renewable": self.renewable and not endless,
            "entity_id": self.entity_id,
            "token_type": self.kind,
            "orphan": self.parent is None,
            "mfa_requirement": None,
            "num_uses": self.num_uses,
        }

    def lookup(self, now: float) -> dict[str, Any]:
        """Return what ``lookup`` and ``lookup-self`` show."""
        endless = self.expires_at == math.inf
        data: dict[str, Any] = {
            "accessor": "" if self.batch else self.accessor,
            "creation_time": int(self.issued_at),
            "creation_ttl": round(self.ttl),
            "display_name": self.display_name,
            "entity_id": self.entity_id,
            "expire_time": None if endless else iso_time(self.expires_at),
            "explicit_max_ttl": round(self.explicit_max_ttl),
            "id": self.id,
            "issue_time": iso_time(self.issued_at),
            "meta": self.metadata,
            "num_uses": self.num_uses,
            "orphan": self.parent is None,
            "path": self.path,
            "policies": self.policies,
            "renewable": self.renewable and not endless,
            "ttl": 0 if endless else math.ceil(self.expires_at - now),
            "type": self.kind,
        }
        if self.period:
            data["period"] = round(self.period)
        if self.renewed_at is not None:
            data["last_renewal"] = iso_time(self.renewed_at)
            data["last_renewal_time"] = int(self.renewed_at)
        return data


class TokenStore:
    """All tokens. The caller holds the emulator's lock.

    Args:
        now: Unix time in seconds.
        on_death: called with each token that ends, so that its leases end too.
    """

    def __init__(self, now: Callable[[], float], on_death: Callable[[Token], None]) -> None:
        self._now = now
        self._on_death = on_death
        self._tokens: dict[str, Token] = {}

    def add_root(self, token_id: str) -> None:
        """Add the token that may do everything and never ends."""
        self._tokens[token_id] = Token(
            id=token_id,
            policies=["root"],
            path="auth/token/create",
            display_name="token",
            issued_at=self._now(),
            renewable=False,
        )

    def create(
        self, *, ttl: float, limit_warnings: list[str] | None = None, **fields: Any
    ) -> Token:
        """Create a token and return it; its first ttl is capped by all its limits."""
        now = self._now()
        batch = fields.get("batch", False)
        prefix = "hvb." if batch else "hvs."
        token = Token(
            id=prefix + random_text(90),
            issued_at=now,
            entity_id=fields.pop("entity_id", ""),
            **fields,
        )
        wanted = token.period or ttl or min(SYSTEM_MAX_TTL, token.max_ttl)
        limit = token.limit() - now
        if ttl and wanted > limit and limit_warnings is not None:
            limit_warnings.append(capped(wanted, limit))
        token.ttl = min(wanted, limit)
        token.wish = token.ttl
        token.expires_at = now + token.ttl
        if "root" in token.policies and not ttl:
            token.ttl, token.expires_at = 0.0, math.inf
        if batch:
            token.renewable = False
        self._tokens[token.id] = token
        return token

    def find(self, token_id: str) -> Token | None:
        """Return a token that is alive."""
        token = self._tokens.get(token_id)
        if token is None or token.spent or token.expires_at <= self._now():
            return None
        return token

    def use(self, token: Token) -> None:
        """Count one request; after the last one allowed, the token is spent."""
        if token.num_uses:
            token.num_uses -= 1
            token.spent = token.num_uses == 0

    def renew(self, token: Token, increment: float) -> list[str] | None:
        """Extend a token and return the warnings that came of it."""
        if token.batch:
            raise Refusal(400, "batch tokens cannot be renewed")
        if not token.renewable or token.expires_at == math.inf:
            raise Refusal(400, "lease is not renewable")
        now = self._now()
        wanted = token.period or increment or token.wish
        limit = left(token.limit(), now)
        if limit <= 0:
            raise Refusal(500, one_error("past the max TTL, cannot renew"))
        token.expires_at = now + min(wanted, limit)
        token.renewed_at = now
        if token.path.startswith("auth/token/"):
            # Without a wish, Vault repeats what such a token was given last; one from a login
            # gets what its role says.
            token.wish = min(wanted, limit)
        return [capped(wanted, limit)] if wanted > limit else None

    def revoke(self, token: Token) -> None:
        """End a token, its descendants and all their leases."""
        if token.batch:
            raise Refusal(400, "batch tokens cannot be revoked")
        self._end(token)

    def expire(self) -> None:
        """End the tokens whose time has come or whose uses are spent."""
        now = self._now()
        for token in [t for t in self._tokens.values() if t.spent or t.expires_at <= now]:
            self._end(token)

    def _end(self, token: Token) -> None:
        for child in list(self._children(token)):
            self._end(child)
        if self._tokens.pop(token.id, None) is not None:
            self._on_death(token)

    def _children(self, token: Token) -> Iterator[Token]:
        return (t for t in self._tokens.values() if t.parent == token.id)
