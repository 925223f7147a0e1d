"""Logging in with the client certificate of the TLS connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
from ephemeral_creds.providers.vault.inputs import checked_auth_mount

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["CertAuth"]


class CertAuth(AuthMethod):
    """The certificate that `VaultConfig.client_cert` (``VAULT_CLIENT_CERT``) names.

    See https://developer.hashicorp.com/vault/docs/auth/cert. The files are read anew at each
    login, so that whoever renews them has nothing to restart.

    Args:
        role: the certificate role to log in as; ``None`` for whichever fits.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "mount")

    def __init__(self, role: str | None = None, *, mount: str = "cert") -> None:
        self._role = role
        self._mount = checked_auth_mount(mount)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Log in over a new connection, with the certificate of this moment."""
        if not client.shows_certificate:
            raise ConfigurationError(
                f"a certificate login at auth/{self._mount} needs a certificate and an https "
                "address: set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY, or client_cert in "
                f"VaultConfig (the address is {client.address})"
            )
        # An open connection goes on with the certificate that it began with.
        client.close()
        body = {} if self._role is None else {"name": self._role}
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.adapter.login(
                f"/v1/auth/{self._mount}/login", use_token=False, json=body
            ),
            f"a certificate login at auth/{self._mount}",
            hint=(
                "check the mount, that a certificate role trusts the CA of this certificate, and "
                "that it has not expired; nothing in between may end the TLS connection"
            ),
            secrets=(),
            role=self._role or "",
        )
        return Token.from_login(reply, requested_at)
