"""Dynamic roles: database credentials that Vault mints, each with a lease."""

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
    from typing import ClassVar

    from ephemeral_creds.providers.vault.http.parse import RoleCredentials
    from ephemeral_creds.providers.vault.tokens import Tokens, TokenSession

__all__ = ["VaultDynamicProvider"]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What renewing or revoking a grant takes."""

    session: TokenSession
    lease_id: str
    initial_duration: float
    tokens: Tokens


class VaultDynamicProvider(VaultProvider):
    """Credentials of a dynamic role of Vault's database secrets engine.

    Each `fetch` makes Vault create a role in PostgreSQL, by one request that is never repeated.
    A grant's deadline is the earlier one of its lease's and of the Vault token's that it was minted
    under; `renew` extends both, the token only where it would be the limit. If a token cannot
    be renewed, the next `fetch` logs in again first; the old token is kept until the last grant
    minted under it is revoked, and is then revoked as well if we logged in for it.

    May be used from several threads, one request at a time; `close` does not wait for a request
    that hangs. A fork's child starts afresh, and leaves its parent's grants alone.

    See https://developer.hashicorp.com/vault/docs/secrets/databases and
    https://developer.hashicorp.com/vault/docs/concepts/lease.

    Args:
        role: the name of the role, without mount and ``creds``.
        auth: how to log in.
        mount: where the secrets engine is mounted.
        fields: the names for ``username`` and ``password`` of another engine whose reply at
            ``MOUNT/creds/ROLE`` has a lease: ``{"username": "user"}``.
        config: how to reach Vault; ``None`` means `VaultConfig.from_env`.
        clock: where to read time from; ``None`` means the system's.

    Raises:
        ConfigurationError: role, mount or configuration cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "vault"

    _lease_duration: float | None = None

    @property
    def description(self) -> str:
        """Role, path and address, for messages."""
        return f"Vault role {self.role!r} ({self.path} at {self.config.address})"

    @property
    def path(self) -> str:
        """The path that credentials are minted at."""
        return f"{self.mount}/creds/{self.role}"

    def fetch(self) -> Grant:
        """Mint credentials, after a login or a renewal of the token if needed.

        Raises:
            ConfigurationError: no such mount or role, a credential type other than password, or
                an incomplete auth method.
            AccessDenied: refused, also after a fresh login.
            ProviderUnavailable: Vault, or PostgreSQL behind it, does not answer.
            MalformedResponse: the reply is not that of Vault's database engine.
        """
        with self._exclusive() as tokens:
            session, requested_at, reply = self._request(tokens, self._lease_duration, self._read)
            return self._grant(tokens, session, reply, requested_at)

    def renew(self, grant: Grant) -> Lease:
        """Ask for the lease's initial duration, and renew the token too if it needs it.

        Returns:
            The extended lease; shorter than at first if lease or token is near its maximum.

        Raises:
            LeaseLost: the lease is gone or expired, or the token that it was made under.
            AccessDenied: the token's policies do not allow renewing leases.
            ProviderUnavailable: Vault, or PostgreSQL behind it, does not answer.
            MalformedResponse: the reply is not Vault's.
        """
        origin = _origin(grant)
        if origin.tokens.inherited:
            raise LeaseLost(f"{self.description}: the lease belongs to the parent process")
        session = origin.session
        with self._exclusive() as tokens:
            # The token only if it, not the lease, would be the limit: usually one request.
            if not session.covers(origin.initial_duration, self._clock.now()):
                tokens.renew(session, origin.initial_duration)
            if not session.dead:
                requested_at = self._clock.now()
                try:
                    renewal = tokens.client.renew_lease(
                        session.token.value,
                        origin.lease_id,
                        origin.initial_duration,
                        **self._place,
                    )
                except AccessDenied:
                    if tokens.is_alive(session):
                        raise
                else:
                    return _lease(origin, renewal.duration, renewal.renewable, requested_at)
        raise LeaseLost(
            f"{self.description}: the Vault token of lease {shorten(origin.lease_id)} is expired "
            "or revoked, and the lease with it",
            status=403,
        )

    def revoke(self, grant: Grant) -> None:
        """Revoke the lease, and its token too if it is superseded, ours and this was the last.

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
            refusal = self._revoke_lease(tokens, origin)
            tokens.revoke_superseded()
            if refusal is None or session.dead or not tokens.is_alive(session):
                # Vault ends the leases of a dead token by itself.
                return
        raise refusal

    def initial_duration(self, grant: Grant) -> float:
        """Return the seconds that Vault gave the grant's lease, however long its token lives."""
        return _origin(grant).initial_duration

    @property
    def _place(self) -> dict[str, str]:
        return {"mount": self.mount, "role": self.role}

    def _read(self, tokens: Tokens, session: TokenSession) -> RoleCredentials:
        return tokens.client.read_creds(session.token.value, self.mount, self.role, self._names)

    def _grant(
        self, tokens: Tokens, session: TokenSession, reply: RoleCredentials, requested_at: float
    ) -> Grant:
        credentials = self._credentials(tokens, reply)
        if reply.duration <= 0 and isinstance(credentials, Credentials):
            credentials = MalformedResponse(f"{self.description} gave a lease of 0 seconds")
        if isinstance(credentials, EphemeralCredsError):
            # The role exists by now, and is never going to be used.
            with contextlib.suppress(EphemeralCredsError):
                tokens.client.revoke_lease(session.token.value, reply.lease_id, **self._place)
            raise credentials
        session.grants.add(reply.lease_id)
        self._lease_duration = reply.duration
        origin = _Origin(session, reply.lease_id, reply.duration, tokens)
        lease = _lease(origin, reply.duration, reply.renewable, requested_at)
        return Grant(credentials, lease, origin=origin)

    def _revoke_lease(self, tokens: Tokens, origin: _Origin) -> AccessDenied | None:
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
    """Return the lease with the earlier deadline of its own and its token's."""
    session = origin.session
    token_has = max(0.0, session.token.expires_at - requested_at)
    return Lease(
        requested_at,
        min(duration, token_has),
        # Asking again would only bring less.
        renewable=renewable and not session.limits(duration, requested_at),
        lease_id=origin.lease_id,
    )
