"""Logging in as an Azure machine, which its metadata service vouches for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import MalformedResponse
from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
from ephemeral_creds.providers.vault.auth.metadata import ask_metadata
from ephemeral_creds.providers.vault.inputs import checked_auth_mount

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["AzureAuth"]


class AzureAuth(AuthMethod):
    """The managed identity of an Azure machine, vouched for by its metadata service.

    See https://developer.hashicorp.com/vault/docs/auth/azure.

    Args:
        role: the role of the auth method.
        resource: what the token is for; the ``resource`` of the auth method's configuration.
        client_id: which of the machine's identities; ``None`` for the only one.
        metadata: the address of the metadata service.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "resource", "client_id", "metadata", "mount")

    def __init__(
        self,
        role: str,
        *,
        resource: str = "https://management.azure.com/",
        client_id: str | None = None,
        metadata: str = "http://169.254.169.254",
        mount: str = "azure",
    ) -> None:
        self._role = role
        self._resource = resource
        self._client_id = client_id
        self._metadata = metadata.rstrip("/")
        self._mount = checked_auth_mount(mount)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Ask the metadata service for a token and for who the machine is, and log in."""
        query = {"api-version": "2018-02-01", "resource": self._resource}
        if self._client_id is not None:
            query["client_id"] = self._client_id
        jwt = self._token(self._ask(f"identity/oauth2/token?{urlencode(query)}"))
        machine = self._machine(self._ask("instance?api-version=2021-02-01"))
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.adapter.login(
                f"/v1/auth/{self._mount}/login",
                use_token=False,
                json={"role": self._role, "jwt": jwt.reveal(), **machine},
            ),
            f"an Azure login for role {self._role!r} at auth/{self._mount}",
            hint="check the mount, the role, its bound_… fields and the resource",
            secrets=(jwt,),
            role=self._role,
        )
        return Token.from_login(reply, requested_at)

    def _ask(self, path: str) -> Secret:
        return ask_metadata(self._metadata, f"/metadata/{path}", "Metadata", "true")

    def _token(self, answer: Secret) -> Secret:
        token = _fields(answer).get("access_token")
        if isinstance(token, str) and token:
            return Secret(token)
        raise MalformedResponse(
            f"the metadata service at {self._metadata} gave no access_token: check that it is "
            "Azure's, and that the machine has a managed identity"
        )

    @staticmethod
    def _machine(answer: Secret) -> dict[str, str]:
        """Return who the machine is; what is missing, Vault will miss if the role demands it."""
        compute = _fields(answer).get("compute")
        found = compute if isinstance(compute, dict) else {}
        scale_set = found.get("vmScaleSetName")
        names = {
            "subscription_id": found.get("subscriptionId"),
            "resource_group_name": found.get("resourceGroupName"),
            # Vault takes one of the two.
            "vmss_name": scale_set,
            "vm_name": None if scale_set else found.get("name"),
        }
        return {name: str(value) for name, value in names.items() if value}


def _fields(answer: Secret) -> dict[str, object]:
    try:
        body = json.loads(answer.reveal())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
