"""`ExternalVault`: a Vault that already runs, used under one random name and left unchanged."""

from __future__ import annotations

import os
import ssl
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds import ConfigurationError, ProviderUnavailable, Secret, VaultConfig
from ephemeral_creds.testing import VaultAdmin, VaultCallFailed, VaultResponse, vault_request

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ExternalVault"]

_NEEDED = (
    "--external needs VAULT_TOKEN: a token that may mount a secrets engine and an auth method, "
    "write policies, and remove all these again"
)
_MAKES = ("sys/mounts/", "sys/auth/", "sys/policies/acl/")
_REFUSED = range(400, 500)


class ExternalVault(VaultAdmin):
    """Sets up the Vault that the environment's ``VAULT_…`` variables name, with their token.

    It remembers the mounts, auth methods and policies that it makes, so that `remove_all` can
    leave the server as it was.

    Raises:
        ConfigurationError: the environment lacks the address or the token.
    """

    def __init__(self) -> None:
        # Not the base class's, which wants a server of ours.
        self.config = VaultConfig.from_env()
        token = os.environ.get("VAULT_TOKEN") or os.environ.get("BAO_TOKEN")
        if not token:
            raise ConfigurationError(_NEEDED)
        self._token = Secret(token)
        self._tls = _tls(self.config) if self.config.address.startswith("https:") else None
        self._made: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret | None = None,
        timeout: float = 30.0,
        wrap_ttl: str | None = None,
    ) -> VaultResponse:
        """Send a request as `token`, by default as the one in VAULT_TOKEN.

        Raises:
            ProviderUnavailable: no answer, or not one in HTTP.
        """
        makes = method in ("POST", "PUT") and path.startswith(_MAKES)
        if makes:
            # Before it is sent: without an answer it may be there nevertheless.
            self._made.append(path)
        try:
            answer = vault_request(
                self.config.address,
                method,
                path,
                body,
                token=token or self._token,
                timeout=timeout,
                wrap_ttl=wrap_ttl,
                tls=self._tls,
                # OpenBao answers health in no namespace.
                namespace=self.config.namespace if path != "sys/health" else None,
            )
        except (OSError, HTTPException) as error:
            raise ProviderUnavailable(
                f"the Vault at {self.config.address} does not answer: {error}"
            ) from None
        if makes and answer.status in _REFUSED:
            self._made.remove(path)
        return answer

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret | None = None,
    ) -> VaultResponse:
        """Send a request that has to succeed.

        Raises:
            ConfigurationError: the token in VAULT_TOKEN is unknown, or may not do this.
            VaultCallFailed: it failed for another reason.
            ProviderUnavailable: no answer, or not one in HTTP.
        """
        try:
            return super().call(method, path, body, token=token)
        except VaultCallFailed as error:
            if token is None and error.status == HTTPStatus.FORBIDDEN:
                raise ConfigurationError(
                    f"the Vault at {self.config.address} refuses the token in VAULT_TOKEN "
                    f"({error}); {_NEEDED}"
                ) from None
            raise

    def remove_all(self) -> list[str]:
        """Remove what was made, all that can be, and say of the rest why it is still there."""
        left_behind = []
        for path in self._made:
            try:
                answer = self.request("DELETE", path)
            except ProviderUnavailable as error:
                why = str(error)
            else:
                if answer.status < _REFUSED.start:
                    continue
                why = f"{answer.status} {answer.errors}"
            left_behind.append(f"{path} is left in the Vault at {self.config.address}: {why}")
        self._made.clear()
        return left_behind


def _tls(config: VaultConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if config.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(config.verify, str):
        kind = "capath" if Path(config.verify).is_dir() else "cafile"
        context.load_verify_locations(**{kind: config.verify})
    if config.client_cert is not None:
        context.load_cert_chain(*config.client_cert)
    return context
