"""Logging in with an AWS identity, by a signed request that Vault sends to AWS."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.aws import host_of, require_botocore, unlogged
from ephemeral_creds.providers.vault.auth.base import MountedAuth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.providers.vault.http.client import VaultClient

__all__ = ["AWSAuth"]

_IDENTITY_CALL = "Action=GetCallerIdentity&Version=2011-06-15"
_GLOBAL_REGION = "us-east-1"
_GLOBAL_HOST = "sts.amazonaws.com"


class AWSAuth(MountedAuth):
    """An AWS identity (IAM), proven by a signed request that Vault passes on to AWS.

    See https://developer.hashicorp.com/vault/docs/auth/aws#iam-auth-method. Needs the extra
    ``aws``: botocore finds the credentials where every AWS tool does (environment, profile,
    web identity, container, instance), at each login.

    Args:
        role: the role of the auth method.
        region: whose STS the request is signed for; ``None`` for the global one, which Vault asks
            unless its ``sts_endpoint`` and ``sts_region`` say otherwise.
        server_id: the value of ``X-Vault-AWS-IAM-Server-ID``, if Vault demands one.
        mount: where the auth method is mounted.

    Raises:
        ConfigurationError: botocore is not installed.
    """

    _shown: ClassVar[tuple[str, ...]] = ("role", "region", "server_id", "mount")
    _kind: ClassVar[str] = "an AWS login"
    _check: ClassVar[str] = (
        "the role, its bound_iam_principal_arn, the region, and whether Vault demands a server_id"
    )

    def __init__(
        self,
        role: str,
        *,
        region: str | None = None,
        server_id: str | None = None,
        mount: str = "aws",
    ) -> None:
        super().__init__(role, mount)
        self._region = region
        self._server_id = server_id
        require_botocore("AWSAuth")

    def _fields(self, client: VaultClient) -> Mapping[str, str | Secret]:
        """Return a signed request: its headers are a login for some minutes."""
        del client
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.session import Session

        session = Session()
        host = _GLOBAL_HOST if self._region is None else host_of("sts", self._region)
        try:
            found = session.get_credentials()
            credentials = None if found is None else found.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - many sources, many errors, some with secrets
            why = type(error).__name__
        else:
            why = "there are none in the environment, a profile, a container or an instance"
            if credentials is not None:
                url = f"https://{host}/"
                headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
                if self._server_id is not None:
                    headers["X-Vault-AWS-IAM-Server-ID"] = self._server_id
                request = AWSRequest(method="POST", url=url, data=_IDENTITY_CALL, headers=headers)
                with unlogged():
                    SigV4Auth(credentials, "sts", self._region or _GLOBAL_REGION).add_auth(request)
                sent = json.dumps({name: [value] for name, value in request.headers.items()})
                return {
                    "role": self._role,
                    "iam_http_request_method": "POST",
                    "iam_request_url": _base64(url),
                    "iam_request_body": _base64(_IDENTITY_CALL),
                    "iam_request_headers": Secret(_base64(sent)),
                }
        raise ConfigurationError(f"no AWS credentials for a Vault login were found: {why}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
