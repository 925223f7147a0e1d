"""A Vault that somebody else runs: used under one random name, and left as it was."""

from __future__ import annotations

import json
import os
import ssl
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ephemeral_creds import ConfigurationError, ProviderUnavailable, Secret, VaultConfig
from ephemeral_creds.testing import VaultAdmin, VaultCallFailed, VaultResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ExternalVault", "ExternalVaultAdmin"]

_NEEDED = (
    "--external needs VAULT_TOKEN: a token that may mount a secrets engine and an auth method, "
    "write policies, and remove all these again"
)
_MAKES = ("sys/mounts/", "sys/auth/", "sys/policies/acl/")
_REFUSED = range(400, 500)


class ExternalVault:
    """Where the environment says that Vault is, with the token that it gives.

    Raises:
        ConfigurationError: the environment lacks one of them.
    """

    def __init__(self) -> None:
        self.config = VaultConfig.from_env()
        token = os.environ.get("VAULT_TOKEN") or os.environ.get("BAO_TOKEN")
        if not token:
            raise ConfigurationError(_NEEDED)
        self.root_token = Secret(token)

    @property
    def address(self) -> str:
        """The base URL."""
        return self.config.address


class ExternalVaultAdmin(VaultAdmin):
    """Sets it up over HTTP or HTTPS, as the environment's ``VAULT_…`` variables say.

    It remembers the mounts, auth methods and policies that it makes, so that `remove_all` can
    leave the server as it was.
    """

    def __init__(self, vault: ExternalVault) -> None:
        # The base class wants a whole server of ours, and uses its address and its token.
        self._external = vault
        self._made: list[str] = []

    @property
    def address(self) -> str:
        """Where it is."""
        return self._external.address

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
        headers = {
            "X-Vault-Request": "true",
            "X-Vault-Token": (token or self._external.root_token).reveal(),
        }
        if wrap_ttl is not None:
            headers["X-Vault-Wrap-TTL"] = wrap_ttl
        answer = self._send(method, path, body, headers, timeout)
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
                    f"the Vault at {self.address} refuses the token in VAULT_TOKEN ({error}); "
                    f"{_NEEDED}"
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
            left_behind.append(f"{path} is left in the Vault at {self.address}: {why}")
        self._made.clear()
        return left_behind

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        headers: dict[str, str],
        timeout: float,
    ) -> VaultResponse:
        config = self._external.config
        # OpenBao answers health in no namespace.
        if config.namespace and path != "sys/health":
            headers["X-Vault-Namespace"] = config.namespace
        where = urlsplit(config.address)
        payload = None if body is None else json.dumps(body)
        try:
            with closing(self._connection(timeout)) as connection:
                connection.request(method, f"{where.path}/v1/{path}", payload, headers)
                answer = connection.getresponse()
                raw = answer.read()
        except (OSError, HTTPException) as error:
            raise ProviderUnavailable(
                f"the Vault at {config.address} does not answer: {error}"
            ) from None
        try:
            parsed = json.loads(raw or b"{}")
        except ValueError:
            parsed = {}
        return VaultResponse(answer.status, parsed if isinstance(parsed, dict) else {}, {})

    def _connection(self, timeout: float) -> HTTPConnection:
        config = self._external.config
        where = urlsplit(config.address)
        host = where.hostname or ""
        if where.scheme == "http":
            return HTTPConnection(host, where.port, timeout=timeout)
        context = ssl.create_default_context()
        if config.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif isinstance(config.verify, str):
            given = Path(config.verify)
            context.load_verify_locations(
                **{"capath" if given.is_dir() else "cafile": str(given)},
            )
        if config.client_cert is not None:
            context.load_cert_chain(*config.client_cert)
        return HTTPSConnection(host, where.port, timeout=timeout, context=context)
