"""Logging in as a machine of a cloud, which vouches for it."""

from __future__ import annotations

import base64
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse
from ephemeral_creds.providers.vault._inputs import checked_path
from ephemeral_creds.providers.vault._metadata import ask_metadata
from ephemeral_creds.providers.vault.auth import AuthMethod, Token

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.client import VaultClient

__all__ = ["AWSAuth", "AzureAuth", "GCPAuth"]

_IDENTITY_CALL = "Action=GetCallerIdentity&Version=2011-06-15"
_GLOBAL_REGION = "us-east-1"


class AWSAuth(AuthMethod):
    """An AWS identity (IAM), proven by a signed request that Vault passes on to AWS.

    See https://developer.hashicorp.com/vault/docs/auth/aws#iam-auth-method. Needs the extra
    ``aws``: botocore finds the credentials where every AWS tool does (environment, profile,
    web identity, container, instance), anew at each login.

    Args:
        role: the role of the auth method.
        region: whose STS the request is signed for; ``None`` for the global one, which is what
            Vault asks unless its ``sts_endpoint`` and ``sts_region`` say something else.
        server_id: the value of ``X-Vault-AWS-IAM-Server-ID``, where Vault demands one.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: botocore is not installed.
    """

    def __init__(
        self,
        role: str,
        *,
        region: str | None = None,
        server_id: str | None = None,
        mount: str = "aws",
    ) -> None:
        self._role = role
        self._region = region
        self._server_id = server_id
        self._mount = checked_path(mount, "mount of an auth method")
        _check_botocore()

    def login(self, client: VaultClient, clock: Clock) -> Token:
        """Sign a request with the credentials of this moment, and log in with it."""
        signed = self._signed()
        requested_at = clock.now()
        reply = client.login(
            lambda vault: vault.adapter.login(
                f"/v1/auth/{self._mount}/login",
                use_token=False,
                json={"role": self._role, **json.loads(signed.reveal())},
            ),
            f"an AWS login for role {self._role!r} at auth/{self._mount}",
            hint=(
                "check the mount, the role, its bound_iam_principal_arn, the region, and whether "
                "Vault demands a server_id"
            ),
            secrets=(signed,),
        )
        return Token.from_login(reply, requested_at)

    def _signed(self) -> Secret:
        """Return the signed request: whoever has it is us for some minutes."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.session import Session

        try:
            found = Session().get_credentials()
            credentials = None if found is None else found.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - many sources, many errors, some with secrets
            why = type(error).__name__
        else:
            why = "there are none in the environment, a profile, a container or an instance"
            if credentials is not None:
                host = f"sts.{self._region}" if self._region else "sts"
                url = f"https://{host}.amazonaws.com/"
                headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
                if self._server_id is not None:
                    headers["X-Vault-AWS-IAM-Server-ID"] = self._server_id
                request = AWSRequest(method="POST", url=url, data=_IDENTITY_CALL, headers=headers)
                SigV4Auth(credentials, "sts", self._region or _GLOBAL_REGION).add_auth(request)
                sent = {name: [value] for name, value in request.headers.items()}
                return Secret(
                    json.dumps(
                        {
                            "iam_http_request_method": "POST",
                            "iam_request_url": _base64(url),
                            "iam_request_body": _base64(_IDENTITY_CALL),
                            "iam_request_headers": _base64(json.dumps(sent)),
                        }
                    )
                )
        raise ConfigurationError(f"no AWS credentials for a Vault login were found: {why}")

    def __repr__(self) -> str:
        return (
            f"AWSAuth({self._role!r}, region={self._region!r}, server_id={self._server_id!r}, "
            f"mount={self._mount!r})"
        )


class GCPAuth(AuthMethod):
    """The service account of a Google Cloud instance, vouched for by its metadata server.

    See https://developer.hashicorp.com/vault/docs/auth/gcp#gce-login.

    Args:
        role: the role of the auth method, of type ``gce``.
        service_account: which of the instance's accounts.
        metadata: the address of the metadata server.
        mount: where the auth method is mounted.
    """

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
        self._mount = checked_path(mount, "mount of an auth method")

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
        )
        return Token.from_login(reply, requested_at)

    def __repr__(self) -> str:
        return (
            f"GCPAuth({self._role!r}, service_account={self._service_account!r}, "
            f"metadata={self._metadata!r}, mount={self._mount!r})"
        )


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
        self._mount = checked_path(mount, "mount of an auth method")

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

    def __repr__(self) -> str:
        return (
            f"AzureAuth({self._role!r}, resource={self._resource!r}, "
            f"client_id={self._client_id!r}, metadata={self._metadata!r}, mount={self._mount!r})"
        )


def _check_botocore() -> None:
    if find_spec("botocore") is None:
        raise ConfigurationError("AWSAuth needs botocore: install ephemeral-creds[aws]")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _fields(answer: Secret) -> dict[str, object]:
    try:
        body = json.loads(answer.reveal())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
