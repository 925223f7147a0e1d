"""The few lines of HTTP that setting up a Vault needs, from the standard library alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from ephemeral_creds._values import Secret

__all__ = ["VaultCallFailed", "VaultResponse", "vault_request"]


@dataclass(frozen=True, slots=True)
class VaultResponse:
    """What a Vault answered.

    Attributes:
        status: the HTTP status.
        body: the parsed JSON object; empty where the answer had none. Holds secrets, hence is
            not shown.
        headers: the answer's headers, names in lower case.
    """

    status: int
    body: dict[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """The member ``data``; empty where there is none."""
        return self.body.get("data") or {}

    @property
    def errors(self) -> list[str]:
        """The texts of the errors; empty after a success."""
        return self.body.get("errors") or []


class VaultCallFailed(AssertionError):
    """A call that sets up a test failed; the message says which, and what Vault said.

    Attributes:
        status: the HTTP status; ``None`` where it was something else that failed.
    """

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
        body: sent as JSON; ``None`` sends nothing.
        token: sent as ``X-Vault-Token``.
        timeout: seconds for each step on the network.
        wrap_ttl: have the answer wrapped in a token that lives this long, as in ``"60s"``.
        tls: whom an ``https`` address may belong to, and what to show of oneself; ``None`` trusts
            whom the system trusts.
        namespace: sent as ``X-Vault-Namespace``.

    Raises:
        OSError: no answer; `http.client.HTTPException` for a broken one.
    """
    where = urlsplit(address)
    headers = {"X-Vault-Request": "true"}
    if token is not None:
        headers["X-Vault-Token"] = token.reveal()
    if wrap_ttl is not None:
        headers["X-Vault-Wrap-TTL"] = wrap_ttl
    if namespace is not None:
        headers["X-Vault-Namespace"] = namespace
    payload = None if body is None else json.dumps(body)
    host = where.hostname or ""
    if where.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(host, where.port, timeout=timeout, context=tls)
    else:
        connection = HTTPConnection(host, where.port, timeout=timeout)
    try:
        connection.request(method, f"/v1/{path}", body=payload, headers=headers)
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
