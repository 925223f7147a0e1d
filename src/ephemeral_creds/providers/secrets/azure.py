"""Azure Key Vault."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from ephemeral_creds._values import Grant
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.providers.address import validate_address
from ephemeral_creds.providers.azure import default_credential, find_azure_token
from ephemeral_creds.providers.fields import SecretFields
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.http.rest import (
    bearer,
    is_down,
    said,
    unavailable,
    unexplained,
)
from ephemeral_creds.providers.secrets.base import (
    POLL_INTERVAL,
    Request,
    SecretProvider,
    SecretVersion,
    arguments_from,
    error_in,
)
from ephemeral_creds.providers.url import Key, one_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.azure import TokenCredential
    from ephemeral_creds.providers.fields import SecretFormat
    from ephemeral_creds.providers.http.reply import Reply
    from ephemeral_creds.providers.url import Location

__all__ = ["AzureKeyVaultProvider"]

_SERVICE = Service(
    name="Key Vault",
    address="the name of the vault, the DNS of its private endpoint",
    values="the names of vault and secret",
)
# https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret
_API_VERSION = "7.4"
_PUBLIC = "vault.azure.net"
# Those of the public cloud, of China and of the government's.
_DOMAINS = re.compile(r"[^.]+\.(vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net))")
_VAULT = re.compile(r"[A-Za-z0-9-]{3,24}")
_NAME = re.compile(r"[A-Za-z0-9-]{1,127}")
_VERSION = re.compile(r"[A-Za-z0-9]{1,64}")
_URL_KEYS = {
    "version": Key("version"),
    "client_id": Key("client_id"),
    "credential": Key("credential", one_of(("platform", "default"))),
}


class AzureKeyVaultProvider(SecretProvider):
    """A secret of Azure Key Vault.

    See https://learn.microsoft.com/azure/key-vault/secrets/about-secrets. The version is read every
    `poll_interval` and whenever PostgreSQL refuses it. Without `credential` the platform is asked
    for an access token, at each read, which needs no further package: for the workload identity of
    a pod in AKS, or the managed identity of an App Service, a container app or a machine. It has to
    have the role *Key Vault Secrets User* on the secret, or the access policy *Get*.

    The credentials have no deadline. The expiry date of the secret, if it has one, is when they are
    expected to end: the secret is read right after it, and `CredentialsEnding` reports that there
    is no other. A version is not used before its activation date.

    Args:
        vault: the name of the vault, or its address: ``https://my-vault.vault.azure.net``.
        name: the name of the secret.
        version: a version to stay at; ``None`` for the latest one.
        credential: an object of ``azure.identity``, or any other with its method ``get_token``.
        client_id: which of the platform's identities; ``None`` for the only one.
        fields: the secret's names for ``username`` and ``password``, or for ``url``, if they are
            not usual ones.
        username: the user name, if the secret has only a password.
        format: ``password``: the secret is the password itself, whatever it looks like.
        poll_interval: seconds between two reads, each of which is one request; less, at random,
            by up to `RefreshPolicy.jitter`.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: an argument cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "azure-secret"

    def __init__(
        self,
        vault: str,
        name: str,
        *,
        version: str | None = None,
        credential: TokenCredential | None = None,
        client_id: str | None = None,
        fields: Mapping[str, str] | None = None,
        username: str | None = None,
        format: SecretFormat = "auto",  # noqa: A002 - what it is called everywhere
        poll_interval: float = POLL_INTERVAL,
        clock: Clock | None = None,
    ) -> None:
        address = vault
        if "://" not in vault:
            host = f"{vault}.{_PUBLIC}" if _VAULT.fullmatch(vault) else vault
            if not _DOMAINS.fullmatch(host):
                raise ConfigurationError(
                    f"{vault!r} cannot be the name of a vault: it has 3 to 24 letters, digits and "
                    "hyphens; or give its address, https://NAME.vault.azure.net"
                )
            address = f"https://{host}"
        self._address = validate_address(address, "vault=")
        for what, value, pattern in (("name", name, _NAME), ("version", version, _VERSION)):
            if value is not None and not pattern.fullmatch(value):
                raise ConfigurationError(f"{value!r} cannot be the {what} of a secret in Key Vault")
        domain = _DOMAINS.fullmatch(urlsplit(self._address).hostname or "")
        self._resource = f"https://{domain[1] if domain else _PUBLIC}"
        self._version_name = version
        self._credential, self._client_id = credential, client_id
        super().__init__(
            name,
            _SERVICE,
            fields=SecretFields(fields, username=username, format=format),
            poll_interval=poll_interval,
            clock=clock,
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        name = location.path.strip("/")
        if not location.name or not name or "/" in name:
            raise location.error("vault and secret", "are not these two: azure-secret://VAULT/NAME")
        arguments = arguments_from(location, _URL_KEYS)
        if arguments.pop("credential", "platform") == "default":
            arguments["credential"] = default_credential(location)
        return arguments | {"vault": location.name, "name": name}

    @property
    def description(self) -> str:
        """The name of the secret, and the address of its vault."""
        version = "" if self._version_name is None else f" version {self._version_name}"
        return f"secret {self.name!r}{version} in Key Vault {self._address}"

    def _attempt(self) -> Grant | EphemeralCredsError:
        requested_at = self._clock.now()
        token = find_azure_token(
            self._credential, self._resource, self._client_id, queue=self._events
        )
        if isinstance(token, EphemeralCredsError):
            return type(token)(f"{self.description} cannot be read: {token}")
        path = f"secrets/{self.name}/{self._version_name or ''}"
        url = f"{self._address}/{path}?api-version={_API_VERSION}"
        request = Request("read", f"secret {self.name!r}", url, bearer(token[0]))
        found = self._ask(request, self._version_in)
        if isinstance(found, EphemeralCredsError):
            return found
        version, ends_in = found
        lease = self._lease(requested_at, ends_in)
        return Grant(version.credentials, lease, origin=version.id)

    def _version_in(
        self, reply: Reply, intro: str
    ) -> tuple[SecretVersion, float] | EphemeralCredsError:
        if reply.status != 200 or reply.body is None:
            return self._failure(reply, intro)
        number = str(reply.body.get("id", "")).rpartition("/")[2] or None
        attributes = reply.body.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        begins, ends = attributes.get("nbf"), attributes.get("exp")
        now = time.time()
        if isinstance(begins, int | float) and begins > now:
            return ProviderUnavailable(
                f"{self.description}: version {number} must not be used for another "
                f"{begins - now:.0f} s: its activation date (nbf) is in the future"
            )
        version = self._version(number, reply.body.get("value"))
        if isinstance(version, EphemeralCredsError):
            return version
        # One that has passed is a hint that did not come true.
        left = ends - now if isinstance(ends, int | float) and ends > now else math.inf
        return version, left

    def _failure(self, reply: Reply, intro: str) -> EphemeralCredsError:
        """Return the error for a reply that is not a success."""
        status = reply.status
        error = error_in(reply)
        if error is None:
            return unexplained(intro, reply)
        inner = error.get("innererror")
        inner = inner.get("code") if isinstance(inner, dict) else None
        code = str(inner or error.get("code"))
        message = f"{intro} answered HTTP {status}: {code}: {said(error.get('message'))}"
        if is_down(reply):
            return unavailable(message, reply)
        vault = urlsplit(self._address).hostname or ""
        which = f"--vault-name {vault.partition('.')[0]} --name {self.name}"
        if code == "SecretDisabled":
            enable = f"az keyvault secret set-attributes {which} --enabled true"
            return ConfigurationError(f"{message}; to enable it: {enable}")
        if status in {401, 403}:
            return AccessDenied(f"{message}; {_right(status, code)}", status=status)
        recover = f"az keyvault secret recover {which}"
        return ConfigurationError(
            f"{message}; check the names of vault and secret. If it was deleted: {recover}"
        )


def _right(status: int, code: str) -> str:
    """Return what a refused request lacks."""
    if status == 401:
        return "check the identity, and that it is of the vault's tenant"
    if code in {"ForbiddenByFirewall", "ForbiddenByConnection"}:
        return "allow this network in the vault's firewall, or use its private endpoint"
    return (
        "assign the role Key Vault Secrets User on this secret to the identity, or Get of its "
        "secrets if the vault has access policies"
    )
