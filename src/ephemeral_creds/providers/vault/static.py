"""Static roles: passwords that Vault rotates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds._values import Grant, Lease
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.vault.provider import VaultProvider

if TYPE_CHECKING:
    from typing import ClassVar

    from ephemeral_creds.providers.vault.http.parse import RoleCredentials
    from ephemeral_creds.providers.vault.tokens import Tokens, TokenSession

__all__ = ["READ_AGAIN", "VaultStaticProvider"]

# Seconds until the next read if Vault does not announce the change: as often as Vault Agent reads
# (static_secret_render_interval).
READ_AGAIN = 300.0


class VaultStaticProvider(VaultProvider):
    """The password of a static role of Vault's database secrets engine.

    The role stays; Vault changes its password every ``rotation_period``, by ``rotation_schedule``
    or on request. A `fetch` reads it and changes nothing. It has no deadline: only Vault ends it,
    so it works while Vault is unreachable. Vault announces the rotation; the password is read again
    right after it, and whenever PostgreSQL refuses it. Open connections stay: PostgreSQL asks for
    the password only at the login.

    Vault changes the password in PostgreSQL first and serves the new one a moment later, up to
    seconds after the announced time. A login in that moment is refused; the pool keeps trying
    within its timeout.

    May be used from several threads, one request at a time. See
    https://developer.hashicorp.com/vault/docs/secrets/databases#static-roles.

    The arguments are those of `VaultDynamicProvider`, with the name of a static role.
    """

    mints: ClassVar[bool] = False
    URL_SCHEME: ClassVar[str] = "vault-static"

    @property
    def description(self) -> str:
        """Role, path and address, for messages."""
        return f"Vault static role {self.role!r} ({self.path} at {self.config.address})"

    @property
    def path(self) -> str:
        """The path that the password is read from."""
        return f"{self.mount}/static-creds/{self.role}"

    def fetch(self) -> Grant:
        """Read the password; raises what `VaultDynamicProvider.fetch` does."""
        with self._exclusive() as tokens:
            session, requested_at, reply = self._request(tokens, None, self._read)
            credentials = value_of(self._credentials(tokens, reply))
            announced = reply.rotates_in is not None
            lease = Lease(
                requested_at,
                rotates_in=math.inf if reply.rotates_in is None else reply.rotates_in,
                ask_again_in=min(
                    math.inf if announced else READ_AGAIN, session.renewal_due_in(requested_at)
                ),
            )
            return Grant(credentials, lease)

    def _read(self, tokens: Tokens, session: TokenSession) -> RoleCredentials:
        return tokens.client.read_static_creds(
            session.token.value, self.mount, self.role, self._names
        )
