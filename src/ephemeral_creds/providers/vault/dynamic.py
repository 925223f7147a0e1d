"""Database credentials that Vault makes on demand, with a lease each."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Grant, Lease
from ephemeral_creds.exceptions import (
    AccessDenied,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
)
from ephemeral_creds.providers.vault.http.errors import shorten
from ephemeral_creds.providers.vault.provider import VaultProvider

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.auth.base import AuthMethod
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.http.parse import MintedCredentials
    from ephemeral_creds.providers.vault.tokens import Tokens, TokenSession

__all__ = ["VaultDynamicProvider"]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What it takes to renew or revoke a grant."""

    session: TokenSession
    lease_id: str
    asked: float
    tokens: Tokens


class VaultDynamicProvider(VaultProvider):
    """Credentials of a dynamic role of Vault's database secrets engine.

    Each `fetch` makes Vault create a role in PostgreSQL, by one request that is never repeated.
    A grant's deadline is the earlier one of its lease's and of the Vault token's that it was made
    under; both are extended by `renew`, the token only where it would be in the way. Where a
    token gets no more time, the next `fetch` logs in anew first; the old token is kept until the
    last grant made under it is revoked, and is then revoked as well if we logged in for it.

    May be used from several threads, one request at a time; `close` does not wait for a request
    that hangs. A fork's child starts afresh, and leaves alone what its parent got.

    See https://developer.hashicorp.com/vault/docs/secrets/databases and
    https://developer.hashicorp.com/vault/docs/concepts/lease.

    Args:
        role: the name of the role, without mount and ``creds``.
        auth: how to log in.
        mount: where the secrets engine is mounted.
        fields: what the engine calls ``username`` and ``password``, where it is another one whose
            answer at ``MOUNT/creds/ROLE`` has a lease: ``{"username": "user"}``.
        config: how to reach Vault; ``None`` means `VaultConfig.from_env`.
        clock: where to read time from; ``None`` means the system's.

    Raises:
        ConfigurationError: role, mount or configuration cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "vault"

    def __init__(
        self,
        role: str,
        *,
        auth: AuthMethod,
        mount: str = "database",
        fields: Mapping[str, str] | None = None,
        config: VaultConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(role, auth=auth, mount=mount, fields=fields, config=config, clock=clock)
        self._lease_duration: float | None = None

    @property
    def description(self) -> str:
        """Role, path and address, for messages."""
        path = f"{self._mount}/creds/{self._role}"
        return f"Vault role {self._role!r} ({path} at {self._config.address})"

    def fetch(self) -> Grant:
        """Mint credentials, after a login or a renewal of the token if they need one.

        Raises:
            ConfigurationError: no such mount or role, a credential type other than password, or
                an auth method that lacks something.
            AccessDenied: refused, and a fresh login did not cure it.
            ProviderUnavailable: Vault, or PostgreSQL behind it, does not answer.
            MalformedResponse: something else than Vault's database engine answers.
        """
        with self._exclusive() as tokens:
            session, requested_at, reply = self._ask(tokens, self._lease_duration, self._read)
            return self._grant(tokens, session, reply, requested_at)

    def renew(self, grant: Grant) -> Lease:
        """Ask for as much time as the lease had at first, for the token as well if it needs it.

        Returns:
            The extended lease; shorter than at first where lease or token is near its maximum.

        Raises:
            LeaseLost: the lease is gone or at its end, or the token that it was made under.
            AccessDenied: the token's policies do not allow renewing leases.
            ProviderUnavailable: Vault, or PostgreSQL behind it, does not answer.
            MalformedResponse: something else than Vault answers.
        """
        origin = _origin(grant)
        if origin.tokens.inherited:
            raise LeaseLost(f"{self.description}: the lease belongs to the parent process")
        session = origin.session
        with self._exclusive() as tokens:
            # The token only where it, not the lease, would be the limit: one request as a rule.
            if not session.covers(origin.asked, self._clock.now()):
                tokens.extend(session, origin.asked)
            if not session.dead:
                requested_at = self._clock.now()
                try:
                    extension = tokens.client.renew_lease(
                        session.token.value, origin.lease_id, origin.asked, **self._place
                    )
                except AccessDenied:
                    if tokens.is_alive(session):
                        raise
                else:
                    return _lease(origin, extension.duration, extension.renewable, requested_at)
        raise LeaseLost(
            f"{self.description}: the Vault token that lease {shorten(origin.lease_id)} was made "
            "under is expired or revoked, and the lease with it",
            status=403,
        )

    def revoke(self, grant: Grant) -> None:
        """Give the lease back, and its token too if it is superseded, ours and this was the last.

        Does nothing in a child of the process that fetched `grant`.

        Raises:
            AccessDenied: the token's policies do not allow it, as Vault's default policy does
                not; the lease then ends at its own time, or with its token.
            ProviderUnavailable: Vault, or PostgreSQL behind it, does not answer.
        """
        origin = _origin(grant)
        if origin.tokens.inherited:
            return
        session = origin.session
        with self._exclusive() as tokens:
            session.grants.discard(origin.lease_id)
            refusal = self._give_back(tokens, origin)
            tokens.settle()
            if refusal is None or session.dead or not tokens.is_alive(session):
                # Vault ends the leases of a dead token by itself.
                return
        raise refusal

    def initial_duration(self, grant: Grant) -> float:
        """Return the seconds that Vault gave the grant's lease, however long its token lives."""
        return _origin(grant).asked

    @property
    def _place(self) -> dict[str, str]:
        return {"mount": self._mount, "role": self._role}

    def _read(self, tokens: Tokens, session: TokenSession) -> MintedCredentials:
        return tokens.client.read_creds(session.token.value, self._mount, self._role, self._names)

    def _grant(
        self, tokens: Tokens, session: TokenSession, reply: MintedCredentials, requested_at: float
    ) -> Grant:
        credentials = self._usable(tokens, reply)
        if reply.duration <= 0 and isinstance(credentials, Credentials):
            credentials = MalformedResponse(f"{self.description} gave a lease that is over at once")
        if isinstance(credentials, EphemeralCredsError):
            # The role exists by now, and nobody is going to use it.
            with contextlib.suppress(EphemeralCredsError):
                tokens.client.revoke_lease(session.token.value, reply.lease_id, **self._place)
            raise credentials
        session.grants.add(reply.lease_id)
        self._lease_duration = reply.duration
        origin = _Origin(session, reply.lease_id, reply.duration, tokens)
        lease = _lease(origin, reply.duration, reply.renewable, requested_at)
        return Grant(credentials, lease, origin=origin)

    def _give_back(self, tokens: Tokens, origin: _Origin) -> AccessDenied | None:
        """Revoke a lease, under its own token or, if that is dead, under the current one."""
        session = origin.session
        if session.dead and tokens.current is not None:
            session = tokens.current
        try:
            tokens.client.revoke_lease(session.token.value, origin.lease_id, **self._place)
        except AccessDenied as error:
            return error
        return None


def _origin(grant: Grant) -> _Origin:
    if not isinstance(grant.origin, _Origin):
        raise TypeError("the grant does not come from a VaultDynamicProvider")
    return grant.origin


def _lease(origin: _Origin, duration: float, renewable: bool, requested_at: float) -> Lease:
    """Return the lease with the deadline that counts: the earlier one of lease and token."""
    session = origin.session
    token_has = max(0.0, session.token.expires_at - requested_at)
    return Lease(
        requested_at,
        min(duration, token_has),
        # Asking again would only bring less.
        renewable=renewable and not session.limits(duration, requested_at),
        lease_id=origin.lease_id,
    )
