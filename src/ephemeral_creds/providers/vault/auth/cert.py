"""Logging in with the client certificate of the TLS connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["CertAuth"]


class CertAuth(MountedAuth):
    """The certificate that `VaultConfig.client_cert` (``VAULT_CLIENT_CERT``) names.

    See https://developer.hashicorp.com/vault/docs/auth/cert. The files are read at each
    login, so nothing has to be restarted after they are renewed.

    Args:
        role: the certificate role to log in as; ``None`` for any that matches.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "mount")
    _kind: ClassVar[str] = "a certificate login"
    _check: ClassVar[str] = (
        "that a certificate role trusts the CA of this certificate, that it has not expired, and "
        "that no proxy terminates the TLS connection"
    )

    def __init__(self, role: str | None = None, *, mount: str = "cert") -> None:
        super().__init__(role or "", mount)

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        if not client.config.presents_certificate:
            raise ConfigurationError(
                f"a certificate login at auth/{self._mount} needs a certificate and an https "
                "address: set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY, or client_cert in "
                f"VaultConfig (the address is {client.config.address})"
            )
        # An open connection keeps the certificate that it was made with.
        client.close()
        return {"name": self._role} if self._role else {}
