"""Logging in as a cloud's machine, with an identity token of its metadata server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import MalformedResponse
from ephemeral_creds.providers.http.metadata import ask_metadata
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["AzureAuth", "GCPAuth"]


class GCPAuth(MountedAuth):
    """The service account of a Google Cloud instance.

    See https://developer.hashicorp.com/vault/docs/auth/gcp#gce-login.

    Args:
        role: the role of the auth method, of type ``gce``.
        service_account: which of the instance's accounts.
        metadata: the address of the metadata server.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "service_account", "metadata", "mount")
    _kind: ClassVar[str] = "a Google Cloud login"
    _check: ClassVar[str] = "that the role is of type gce, and its bound_… fields"

    def __init__(
        self,
        role: str,
        *,
        service_account: str = "default",
        metadata: str = "http://metadata.google.internal",
        mount: str = "gcp",
    ) -> None:
        super().__init__(role, mount)
        self._service_account = service_account
        self._metadata = metadata.rstrip("/")

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        del client
        account = quote(self._service_account, safe="@.-")
        query = urlencode({"audience": f"http://vault/{self._role}", "format": "full"})
        path = f"/computeMetadata/v1/instance/service-accounts/{account}/identity?{query}"
        jwt = ask_metadata(self._metadata, path, "Metadata-Flavor", "Google")
        return {"role": self._role, "jwt": jwt}


class AzureAuth(MountedAuth):
    """The managed identity of an Azure machine.

    See https://developer.hashicorp.com/vault/docs/auth/azure.

    Args:
        role: the role of the auth method.
        resource: the token's audience; the ``resource`` of the auth method's configuration.
        client_id: which of the machine's identities; ``None`` for the only one.
        metadata: the address of the metadata service.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "resource", "client_id", "metadata", "mount")
    _kind: ClassVar[str] = "an Azure login"
    _check: ClassVar[str] = "the role, its bound_… fields and the resource"

    def __init__(
        self,
        role: str,
        *,
        resource: str = "https://management.azure.com/",
        client_id: str | None = None,
        metadata: str = "http://169.254.169.254",
        mount: str = "azure",
    ) -> None:
        super().__init__(role, mount)
        self._resource = resource
        self._client_id = client_id
        self._metadata = metadata.rstrip("/")

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        del client
        query = {"api-version": "2018-02-01", "resource": self._resource}
        if self._client_id is not None:
            query["client_id"] = self._client_id
        token = self._look_up(f"identity/oauth2/token?{urlencode(query)}").get("access_token")
        if not isinstance(token, str) or not token:
            raise MalformedResponse(
                f"the metadata service at {self._metadata} gave no access_token: check that it is "
                "Azure's, and that the machine has a managed identity"
            )
        jwt = Secret(token)
        del token
        return {"role": self._role, "jwt": jwt, **self._machine()}

    def _machine(self) -> dict[str, str]:
        """Return the machine's names; Vault complains if the role demands one that is missing."""
        compute = self._look_up("instance?api-version=2021-02-01").get("compute")
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

    def _look_up(self, path: str) -> dict[str, object]:
        reply = ask_metadata(self._metadata, f"/metadata/{path}", "Metadata", "true")
        try:
            body = json.loads(reply.reveal())
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}
