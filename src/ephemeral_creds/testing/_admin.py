"""Requests that set up a Vault for tests, with the standard library's HTTP client."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ephemeral_creds._values import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ssl import SSLContext

    from ephemeral_creds.testing._fault_proxy import VaultAccess

__all__ = [
    "AppRole",
    "VaultAdmin",
    "VaultCallFailed",
    "VaultResponse",
    "vault_request",
    "whole_seconds",
]


@dataclass(frozen=True, slots=True)
class VaultResponse:
    """What a Vault answered.

    Attributes:
        status: the HTTP status.
        body: the JSON object; empty without one. It holds secrets and is not shown in `repr`.
        headers: names in lower case.
    """

    status: int
    body: dict[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """The member ``data``; empty without one."""
        return self.body.get("data") or {}

    @property
    def errors(self) -> list[str]:
        """The texts of the errors; empty after a success."""
        return self.body.get("errors") or []


class VaultCallFailed(AssertionError):
    """A call that sets up a test failed: which, what Vault said, and its HTTP `status`, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def vault_request(
    address: str,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    token: Secret | None = None,
    timeout: float = 30.0,
    wrap_ttl: str | None = None,
    tls: SSLContext | None = None,
    namespace: str | None = None,
) -> VaultResponse:
    """Send one request, without retries and without following redirects.

    Args:
        address: for example ``http://127.0.0.1:8200``.
        method: ``LIST`` is understood by Vault as well.
        path: what follows ``/v1/``.
        body: sent as JSON.
        token: whose request it is.
        timeout: seconds for each step on the network.
        wrap_ttl: have the answer wrapped in a token that lives this long, as in ``"60s"``.
        tls: for an ``https`` address; ``None`` trusts whom the system trusts.
        namespace: where in Vault.

    Raises:
        OSError: no answer; `http.client.HTTPException` for a broken one.
    """
    headers = {
        "X-Vault-Request": "true",
        "X-Vault-Token": None if token is None else token.reveal(),
        "X-Vault-Wrap-TTL": wrap_ttl,
        "X-Vault-Namespace": namespace,
    }
    where = urlsplit(address)
    host = where.hostname or ""
    if where.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(host, where.port, timeout=timeout, context=tls)
    else:
        connection = HTTPConnection(host, where.port, timeout=timeout)
    try:
        connection.request(
            method,
            f"{where.path.rstrip('/')}/v1/{path}",
            body=None if body is None else json.dumps(body),
            headers={name: value for name, value in headers.items() if value is not None},
        )
        answer = connection.getresponse()
        raw = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return VaultResponse(answer.status, _parse(raw), found)
    finally:
        connection.close()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def whole_seconds(value: object) -> object:
    """Return what Vault takes for a time to live: it counts whole seconds, OpenBao takes no other.

    A float is rounded up; anything else, such as ``"5s"``, is left as it is.
    """
    return math.ceil(value) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class AppRole:
    """What a machine needs to log in by AppRole."""

    role_id: str
    secret_id: Secret
    mount: str = "approle"


class VaultAdmin:
    """Sets up a Vault with its root token, over plain HTTP.

    Args:
        vault: a running server; ask again after it was stopped, it forgets everything.
        address: where to send it; ``None`` is through the server's fault proxy.
    """

    def __init__(self, vault: VaultAccess, address: str | None = None) -> None:
        self.vault = vault
        self._address = address

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
        """Send a request as `token`, by default as root, and return whatever comes back.

        With `wrap_ttl`, such as ``"60s"``, that is a wrapping token for the answer.
        """
        return vault_request(
            self._address or self.vault.address,
            method,
            path,
            body,
            token=token if token is not None else self.vault.root_token,
            timeout=timeout,
            wrap_ttl=wrap_ttl,
        )

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
            VaultCallFailed: it did not.
        """
        answer = self.request(method, path, body, token=token)
        if answer.status >= 400:
            raise VaultCallFailed(
                f"{method} {path}: {answer.status} {answer.errors}", status=answer.status
            )
        return answer

    def write_policy(self, name: str, rules: Mapping[str, Sequence[str]]) -> str:
        """Create or replace a policy and return its name.

        `rules` are capabilities by path, as in ``{"database/creds/app": ["read"]}``.
        """
        paths = {path: {"capabilities": list(allowed)} for path, allowed in rules.items()}
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": paths})})
        return name

    def create_token(
        self,
        policies: Sequence[str] = (),
        *,
        orphan: bool = True,
        parent: Secret | None = None,
        **options: object,
    ) -> Secret:
        """Create a token and return it.

        Args:
            policies: what it may do; ``default`` is added.
            orphan: whether it lives on when `parent` ends.
            parent: the token that creates it; ``None`` is root.
            options: as Vault calls them: ``ttl``, ``explicit_max_ttl``, ``period``, ``num_uses``,
                ``renewable``, ``type``, ``no_default_policy``; times in seconds or as ``"5s"``.
        """
        # With an empty list Vault copies the policies of the parent: root's.
        body = {"policies": list(policies) or ["default"]} | _as_vault_takes(options)
        path = "auth/token/create-orphan" if orphan else "auth/token/create"
        return Secret(self.call("POST", path, body, token=parent).body["auth"]["client_token"])

    def revoke_token(self, token: Secret) -> None:
        """End `token`, its children, and every lease of theirs."""
        self.call("PUT", "auth/token/revoke", {"token": token.reveal()})

    def enable_auth(self, kind: str, mount: str | None = None) -> None:
        """Enable an auth method at `mount` (its kind's name by default), once."""
        path = mount or kind
        if f"{path}/" not in self.call("GET", "sys/auth").data:
            self.call("POST", f"sys/auth/{path}", {"type": kind})

    def create_approle(
        self, name: str, policies: Sequence[str] = (), *, mount: str = "approle", **options: object
    ) -> AppRole:
        """Create an AppRole, enabling the method where needed, and return how to log in.

        Options are as Vault calls them: ``token_ttl``, ``token_max_ttl``, ``secret_id_num_uses``
        and so on; times in seconds or as ``"5s"``.
        """
        self.enable_auth("approle", mount)
        path = f"auth/{mount}/role/{name}"
        self.call("POST", path, {"token_policies": list(policies)} | _as_vault_takes(options))
        role_id = self.call("GET", f"{path}/role-id").data["role_id"]
        secret_id = self.call("POST", f"{path}/secret-id").data["secret_id"]
        return AppRole(role_id, Secret(secret_id), mount)

    def leases(self, prefix: str) -> list[str]:
        """Return the full ids of the leases directly below `prefix`."""
        folder = prefix.rstrip("/")
        answer = self.request("GET", f"sys/leases/lookup/{folder}/?list=true")
        return [f"{folder}/{key}" for key in answer.data.get("keys", [])]

    def revoke_lease(self, lease_id: str) -> None:
        """End one lease, and return when its role is dropped."""
        self.call("PUT", "sys/leases/revoke", {"lease_id": lease_id, "sync": True})

    def revoke_prefix(self, prefix: str) -> None:
        """End every lease below `prefix`, and return when the roles are dropped."""
        self.call("PUT", f"sys/leases/revoke-prefix/{prefix}", {"sync": True})


def _as_vault_takes(options: Mapping[str, object]) -> dict[str, object]:
    return {name: whole_seconds(value) for name, value in options.items()}
