"""The password of a database role that stays, and that Vault changes from time to time."""

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

# Where Vault does not say when it will change the password, as often as Vault Agent looks
# (static_secret_render_interval).
_LOOK = 300.0


class VaultStaticProvider(VaultProvider):
    """The password of a static role of Vault's database secrets engine.

    The role stays; Vault changes its password every ``rotation_period``, by ``rotation_schedule``
    or when somebody asks it to. A `fetch` reads it and changes nothing. It has no deadline: only
    Vault ends it, so that it works on while Vault is away. Vault says when it is due; it is read
    again right after that, and whenever PostgreSQL refuses it. Open connections stay: PostgreSQL
    asks for the password only at the login.

    Vault changes the password in PostgreSQL first and hands out the new one a moment later, up to
    seconds after the time that it had announced. A login in that moment is refused; the pool goes
    on trying within its timeout.

    May be used from several threads, one request at a time. See
    https://developer.hashicorp.com/vault/docs/secrets/databases#static-roles.

    Args:
        role: the name of the static role, without mount and ``static-creds``.
        auth: how to log in.
        mount: where the secrets engine is mounted.
        fields: what the engine calls ``username`` and ``password``, where not so.
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
        """Read the password, after a login or a renewal of the token if it needs one.

        Raises:
            ConfigurationError: no such mount or role, a credential type other than password, or
                an auth method that lacks something.
            AccessDenied: refused, and a fresh login did not cure it.
            ProviderUnavailable: Vault does not answer.
            MalformedResponse: something else than Vault's database engine answers.
        """
        with self._exclusive() as tokens:
            session, requested_at, reply = self._ask(tokens, None, self._read)
            credentials = self._usable(tokens, reply)
            if isinstance(credentials, EphemeralCredsError):
                raise credentials
            lease = Lease(
                requested_at,
                rotates_in=math.inf if reply.ttl is None else reply.ttl,
                ask_again_in=min(
                    _LOOK if reply.ttl is None else math.inf,
                    session.needs_care_in(requested_at),
                ),
            )
            return Grant(credentials, lease)

    def _read(self, tokens: Tokens, session: TokenSession) -> StaticCredentials:
        return tokens.client.read_static_creds(
            session.token.value, self._mount, self._role, self._names
        )
