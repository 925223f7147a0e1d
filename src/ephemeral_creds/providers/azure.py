"""Access tokens of Microsoft Entra: of the platform's identity, or of a credential object."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
)
from ephemeral_creds.providers.access import access_token_in, call_for_token
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.http.metadata import query_token
from ephemeral_creds.providers.http.rest import RestClient, is_down, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.providers.access import AccessToken
    from ephemeral_creds.providers.http.event_queue import EventQueue
    from ephemeral_creds.providers.http.reply import Reply
    from ephemeral_creds.providers.url import Location

__all__ = ["TokenCredential", "default_credential", "find_azure_token"]

_METADATA = "http://169.254.169.254"
_AUTHORITY = "https://login.microsoftonline.com"
# Seconds: a token's life if a credential object does not say; Entra's live an hour or more.
_LIFETIME = 300.0
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ENTRA = Service(
    name="Microsoft Entra",
    address="AZURE_AUTHORITY_HOST",
    values="AZURE_AUTHORITY_HOST, AZURE_TENANT_ID and AZURE_CLIENT_ID",
)


class TokenCredential(Protocol):
    """A credential object of ``azure.identity``, or any other with this method."""

    def get_token(self, *scopes: str) -> object:
        """Return a token and its end, as ``azure.core.credentials.AccessToken`` has them."""
        ...


def default_credential(location: Location) -> TokenCredential:
    """Return azure.identity's default credential, for ``credential=default`` in a URL.

    Raises:
        ConfigurationError: azure.identity is not installed.
    """
    try:
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError:
        raise location.error(
            "credential=default", "needs azure-identity: install ephemeral-creds[azure]"
        ) from None
    found: TokenCredential = DefaultAzureCredential()
    return found


def find_azure_token(
    credential: TokenCredential | None,
    resource: str,
    client_id: str | None = None,
    *,
    queue: EventQueue,
    environ: Mapping[str, str] = os.environ,
) -> AccessToken | EphemeralCredsError:
    """Return a token for a resource, or why there is no token.

    Args:
        credential: what to ask; ``None`` asks the platform: for the workload identity of a pod in
            AKS, else for the managed identity of an App Service, a container app or a machine.
        resource: what the token is for, such as ``https://vault.azure.net``.
        client_id: which of the platform's identities; ``None`` for the only one.
        queue: gets the event of a request to the platform; what a credential object does is not
            known.
        environ: where the platform says what there is.
    """
    if credential is not None:
        return call_for_token(
            lambda: credential.get_token(f"{resource}/.default"),
            f"{type(credential).__name__} for {resource}",
            lifetime=_LIFETIME,
            explain=_of_azure_identity,
        )
    if environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        return _workload_identity(resource, client_id, environ, queue)
    return _managed_identity(resource, client_id, environ, queue)


def _of_azure_identity(error: Exception) -> EphemeralCredsError | None:
    """Return the error for one of azure.identity, by its class: the package need not be there."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = ", ".join(dict.fromkeys(re.findall(r"AADSTS[0-9]+", str(error))))
    code = f" ({said})" if said else ""
    if "CredentialUnavailableError" in kinds:
        return ConfigurationError(
            f"azure.identity found nothing to log in to Entra with{code}: {type(error).__name__}; "
            "log its messages at INFO to see where it looked"
        )
    if "ClientAuthenticationError" in kinds:
        return AccessDenied(f"Entra refuses the login of azure.identity{code}: check the identity")
    return None


def _managed_identity(
    resource: str, client_id: str | None, environ: Mapping[str, str], queue: EventQueue
) -> AccessToken | EphemeralCredsError:
    """Ask the machine's metadata service, or what App Service and Container Apps have instead."""
    query = {"api-version": "2018-02-01", "resource": resource}
    if client_id is not None:
        query["client_id"] = client_id
    address, path = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST") or _METADATA, "/metadata"
    header, value = "Metadata", "true"
    if endpoint := environ.get("IDENTITY_ENDPOINT"):
        # https://learn.microsoft.com/azure/app-service/overview-managed-identity
        parts = urlsplit(endpoint)
        address, path = f"{parts.scheme}://{parts.netloc}", parts.path
        header, value = "X-IDENTITY-HEADER", environ.get("IDENTITY_HEADER", "")
        query["api-version"] = "2019-08-01"
    else:
        path += "/identity/oauth2/token"
    path = f"{path}?{urlencode(query)}"
    return query_token(queue, address.rstrip("/"), path, (header, value))


def _workload_identity(
    resource: str, client_id: str | None, environ: Mapping[str, str], queue: EventQueue
) -> AccessToken | EphemeralCredsError:
    """Exchange the pod's token; see https://azure.github.io/azure-workload-identity/docs/."""
    path = Path(environ["AZURE_FEDERATED_TOKEN_FILE"])
    client = client_id or environ.get("AZURE_CLIENT_ID", "")
    tenant = environ.get("AZURE_TENANT_ID", "")
    if not client or not tenant:
        return ConfigurationError(
            "AZURE_FEDERATED_TOKEN_FILE is set, but not AZURE_CLIENT_ID and AZURE_TENANT_ID: label "
            "the pod azure.workload.identity/use=true, and annotate its service account"
        )
    try:
        assertion = Secret(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        return ConfigurationError(
            f"{path} should hold the pod's token, but it cannot be read: {type(error).__name__}"
        )
    authority = (environ.get("AZURE_AUTHORITY_HOST") or _AUTHORITY).rstrip("/")
    form = {
        "grant_type": "client_credentials",
        "scope": f"{resource}/.default",
        "client_id": client,
        "client_assertion_type": _ASSERTION,
        "client_assertion": assertion.reveal(),
    }
    body = Secret(urlencode(form))
    del form
    client_ = RestClient(_ENTRA)
    what = f"Microsoft Entra at {authority}, asked for a token of client {client},"
    try:
        return client_.ask(
            queue,
            "login",
            what,
            "POST",
            f"{authority}/{tenant}/oauth2/v2.0/token",
            lambda reply: _of_entra(reply, what),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=body,
        )
    finally:
        client_.close()


def _of_entra(reply: Reply, what: str) -> AccessToken | EphemeralCredsError:
    body, status = reply.body or {}, reply.status
    if status == 200:
        return access_token_in(body, what)
    if is_down(reply):
        return unavailable(f"{what} answered HTTP {status}", reply)
    found = re.match(r"AADSTS[0-9]+", str(body.get("error_description")))
    code = f"{body.get('error')} ({found[0]})" if found else reply.kind
    return AccessDenied(
        f"{what} answered HTTP {status}: {code}: check the federated credential of the identity: "
        "its issuer is the cluster's, its subject system:serviceaccount:NAMESPACE:NAME",
        status=status,
    )
