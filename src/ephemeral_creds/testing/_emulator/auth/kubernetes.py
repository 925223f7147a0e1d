"""Logins by Kubernetes service account, by way of a TokenReview server."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ephemeral_creds.testing._emulator._wire import Refusal
from ephemeral_creds.testing._emulator.auth.base import AuthMount
from ephemeral_creds.testing._kubernetes import decode_claims

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._wire import Answer, Request
    from ephemeral_creds.testing._emulator.auth.base import AuthRole

__all__ = ["KubernetesMount"]

_CLOCK_SKEW = 60.0  # seconds that a service account's token may be off
_REVIEW_TIMEOUT = 10.0


class KubernetesMount(AuthMount):
    """Logins by service account token."""

    mount_type = "kubernetes"
    config_path = "config"

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        if request.operation != "update":
            raise Refusal(405, "unsupported operation")
        for name in ("role", "jwt"):
            if not request.text(name):
                raise Refusal(400, f"missing {name}")
        jwt = request.text("jwt")
        role = self._roles.get(request.text("role"))
        if role is None:
            raise Refusal(400, f'invalid role name "{request.text("role")}"')
        account = self._check_claims(role, jwt)
        if not self._review(jwt):
            raise Refusal(403, "permission denied")
        metadata = {
            "role": role.name,
            "service_account_name": account["name"],
            "service_account_namespace": account["namespace"],
            "service_account_secret_name": "",
            "service_account_uid": account["uid"],
        }
        alias = f"{account['namespace']}-{account['name']}"
        return self._grant(role, alias, metadata)

    def _check_claims(self, role: AuthRole, jwt: str) -> dict[str, str]:
        try:
            claims: dict[str, Any] = decode_claims(jwt)
        except ValueError:
            raise Refusal(403, "permission denied") from None
        inner = claims.get("kubernetes.io", {})
        account = inner.get("serviceaccount", {})
        found = {
            "name": account.get("name", ""),
            "namespace": inner.get("namespace", ""),
            "uid": account.get("uid", ""),
        }
        if not found["uid"]:
            raise Refusal(500, "could not parse UID from claims")
        if not {"*", found["name"]} & set(role.body["bound_service_account_names"]):
            raise Refusal(403, "service account name not authorized")
        if not {"*", found["namespace"]} & set(role.body["bound_service_account_namespaces"]):
            raise Refusal(403, "namespace not authorized")
        now = self._now()
        if claims.get("exp", 0) + _CLOCK_SKEW < now:
            raise Refusal(403, "invalid expiration time (exp) claim: token is expired")
        if claims.get("nbf", 0) - _CLOCK_SKEW > now:
            raise Refusal(403, "invalid not before (nbf) claim: token not yet valid")
        return found

    def _review(self, jwt: str) -> bool:
        where = urlsplit(str(self.config["kubernetes_host"]))
        asked = json.dumps({"kind": "TokenReview", "spec": {"token": jwt}})
        connection = HTTPConnection(where.hostname or "", where.port, timeout=_REVIEW_TIMEOUT)
        try:
            path = "/apis/authentication.k8s.io/v1/tokenreviews"
            connection.request("POST", path, body=asked)
            said = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            raise Refusal(500, "lookup failed: the token reviewer did not answer") from None
        finally:
            connection.close()
        return bool(said["status"].get("authenticated"))
