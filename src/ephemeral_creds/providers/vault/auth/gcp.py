"""Logging in as a Google Cloud instance, which its metadata server vouches for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlencode

from ephemeral_creds.providers.vault.auth.base import AuthMethod, Token
from ephemeral_creds.providers.vault.auth.metadata import ask_metadata
from ephemeral_creds.providers.vault.inputs import checked_auth_mount

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["GCPAuth"]


class GCPAuth(AuthMethod):
    """The service account of a Google Cloud instance, vouched for by its metadata server.

    See https://developer.hashicorp.com/vault/docs/auth/gcp#gce-login.

    Args:
        role: the role of the auth method, of type ``gce``.
        service_account: which of the instance's accounts.
        metadata: the address of the metadata server.
        mount: where the auth method is mounted.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "service_account", "metadata", "mount")

    def __init__(
        self,
        role: str,
        *,
        service_account: str = "default",
        metadata: str = "http://metadata.google.internal",
        mount: str = "gcp",
    ) -> None:
        self._role = role
        self._service_account = service_account
        self._metadata = metadata.rstrip("/")
        self._mount = checked_auth_mount(mount)

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Ask the metadata server for a token for this role, and log in with it."""
        account = quote(self._service_account, safe="@.-")
        query = urlencode({"audience": f"http://vault/{self._role}", "format": "full"})
        path = f"/computeMetadata/v1/instance/service-accounts/{account}/identity?{query}"
        jwt = ask_metadata(self._metadata, path, "Metadata-Flavor", "Google")
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.auth.gcp.login(
                self._role, jwt.reveal(), use_token=False, mount_point=self._mount
            ),
            f"a Google Cloud login for role {self._role!r} at auth/{self._mount}",
            hint="check the mount, that the role is of type gce, and its bound_… fields",
            secrets=(jwt,),
            role=self._role,
        )
        return Token.from_login(reply, requested_at)
