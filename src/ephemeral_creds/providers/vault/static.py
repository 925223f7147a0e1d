"""Static roles: passwords that Vault rotates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds._values import Grant, Lease
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.vault.provider import VaultProvider

if TYPE_CHECKING:
    from typing import ClassVar

    from ephemeral_creds.providers.vault.http.parse import StaticCredentials
    from ephemeral_creds.providers.vault.tokens import Tokens, TokenSession

__all__ = ["VaultStaticProvider"]

# Seconds until the next read where Vault does not announce the rotation: as often as Vault Agent
# reads (static_secret_render_interval).
_READ_AGAIN = 300.0


class VaultStaticProvider(VaultProvider):
    """The password of a static role of Vault's database secrets engine.

    The role stays; Vault changes its password every ``rotation_period``, by ``rotation_schedule``
    or on request. A `fetch` reads it and changes nothing. It has no deadline: only Vault ends it,
    so it works on while Vault is away. Vault announces the rotation; the password is read again
    right after it, and whenever PostgreSQL refuses it. Open connections stay: PostgreSQL asks for
    the password only at the login.

    Vault changes the password in PostgreSQL first and serves the new one a moment later, up to
    seconds after the announced time. A login in that moment is refused; the pool keeps trying
    within its timeout.

    May be used from several threads, one request at a time. See
    https://developer.hashicorp.com/vault/docs/secrets/databases#static-roles.

    Args:
        role: the name of the static role, without mount and ``static-creds``.
        auth: how to log in.
        mount: where the secrets engine is mounted.
        fields: the engine's names for ``username`` and ``password``, if it has others.
        config: how to reach Vault; ``None`` means `VaultConfig.from_env`.
        clock: where to read time from; ``None`` means the system's.

    Raises:
        ConfigurationError: role, mount or configuration cannot be right.
    """

    mints: ClassVar[bool] = False
    URL_SCHEME: ClassVar[str] = "vault-static"

    @property
    def description(self) -> str:
        """Role, path and address, for messages."""
        path = f"{self._mount}/static-creds/{self._role}"
        return f"Vault static role {self._role!r} ({path} at {self._config.address})"

    def fetch(self) -> Grant:
        """Read the password, after a login or a renewal of the token if needed.

        Raises:
            ConfigurationError: no such mount or role, a credential type other than password, or
                an incomplete auth method.
            AccessDenied: refused, also after a fresh login.
            ProviderUnavailable: Vault does not answer.
            MalformedResponse: the reply is not that of Vault's database engine.
        """
        with self._exclusive() as tokens:
            session, requested_at, reply = self._request(tokens, None, self._read)
            credentials = self._credentials(tokens, reply)
            if isinstance(credentials, EphemeralCredsError):
                raise credentials
            announced = reply.ttl is not None
            lease = Lease(
                requested_at,
                rotates_in=math.inf if reply.ttl is None else reply.ttl,
                ask_again_in=min(
                    math.inf if announced else _READ_AGAIN, session.renewal_due_in(requested_at)
                ),
            )
            return Grant(credentials, lease)

    def _read(self, tokens: Tokens, session: TokenSession) -> StaticCredentials:
        return tokens.client.read_static_creds(
            session.token.value, self._mount, self._role, self._names
        )
