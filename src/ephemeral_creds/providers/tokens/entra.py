"""Tokens of Microsoft Entra for Azure Database for PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.access import claims_of
from ephemeral_creds.providers.azure import default_credential, find_azure_token
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider, role_and_arguments
from ephemeral_creds.providers.url import FromURL, Key, one_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers.azure import TokenCredential
    from ephemeral_creds.providers.url import Location

__all__ = ["EntraProvider"]

# That of the public cloud; other clouds' end in usgovcloudapi.net and chinacloudapi.cn.
_RESOURCE = "https://ossrdbms-aad.database.windows.net"
_URL_KEYS = {
    "client_id": Key("client_id"),
    "credential": Key("credential", one_of(("platform", "default"))),
    "resource": Key("resource"),
}


class EntraProvider(DatabaseTokenProvider, FromURL):
    """Tokens of Microsoft Entra that Azure Database for PostgreSQL takes for a password.

    See https://learn.microsoft.com/azure/postgresql/security/security-entra-configure. Without a
    `credential` the platform is asked, which needs no further package: for the workload identity
    of a pod in AKS, the managed identity of an App Service or a container app, or that of a
    machine.

    Args:
        username: the PostgreSQL role to log in as, which is the name of the identity; ``None``
            takes it from the token, which has that of a person or of a user-assigned managed
            identity.
        credential: a credential object of ``azure.identity``, not one of ``azure.identity.aio``,
            or any other with its ``get_token``.
        client_id: which of the platform's identities; ``None`` for the only one.
        resource: what the token is for; that of the public cloud by default.
        clock: where the time of a `fetch` comes from.
    """

    URL_SCHEME: ClassVar[str] = "entra"
    _refusal_hint: ClassVar[str] = (
        "check that the server has Microsoft Entra authentication enabled, and that the role is "
        "there: SELECT * FROM pgaadauth_list_principals(false), and "
        "pgaadauth_create_principal('NAME', false, false) for a new one; its name is that of the "
        "identity, with the same case"
    )

    def __init__(
        self,
        username: str | None = None,
        *,
        credential: TokenCredential | None = None,
        client_id: str | None = None,
        resource: str = _RESOURCE,
        clock: Clock | None = None,
    ) -> None:
        self._credential, self._client_id = credential, client_id
        self._resource = resource.removesuffix("/.default").rstrip("/")
        by = "the platform" if credential is None else type(credential).__name__
        which = f", client {client_id}" if client_id else ""
        super().__init__(username or "", f"Microsoft Entra, by {by}{which}", clock=clock)

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        arguments = role_and_arguments(location, _URL_KEYS, needs_role=False)
        if arguments.pop("credential", "platform") == "default":
            arguments["credential"] = default_credential(location)
        return arguments

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        found = find_azure_token(
            self._credential, self._resource, self._client_id, queue=self._events
        )
        if isinstance(found, EphemeralCredsError):
            return found
        token, remaining = found
        credentials = self._with(token)
        if not self._username:
            name = _name_in(claims_of(token))
            if name is None:
                return ConfigurationError(
                    f"{self.description}: the token has no name to log in as, as those of service "
                    "principals and of system-assigned identities: give username="
                )
            credentials = replace(credentials, username=name)
        return credentials, remaining


def _name_in(claims: Mapping[str, object]) -> str | None:
    """Return the name of an identity, which is that of its role."""
    # That of a user-assigned identity is the last part of its resource id.
    resource_id = str(claims.get("xms_mirid") or "")
    if "/userAssignedIdentities/" in resource_id:
        return resource_id.rpartition("/")[2]
    for claim in ("upn", "preferred_username", "unique_name"):
        value = claims.get(claim)
        if isinstance(value, str) and value:
            return value
    return None
