"""Logins by a request to AWS's STS that the client signed and Vault sends."""

from __future__ import annotations

import base64
import json
import re
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ephemeral_creds.testing._emulator._wire import Refusal
from ephemeral_creds.testing._emulator.auth.base import AuthMount

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._wire import Answer, Request

__all__ = ["AWSMount"]

_SERVER_ID = "X-Vault-AWS-IAM-Server-ID"
_STS_TIMEOUT = 10.0
_PARTS = ("iam_http_request_method", "iam_request_url", "iam_request_body", "iam_request_headers")


class AWSMount(AuthMount):
    """IAM logins, passed on to the configured ``sts_endpoint``, which has to be plain HTTP."""

    mount_type = "aws"
    config_path = "config/client"

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        if request.operation != "update":
            raise Refusal(405, "unsupported operation")
        if not any(name in request.body for name in _PARTS):
            raise Refusal(400, "didn't supply required authentication values")
        headers = _headers(request)
        if not request.text("iam_http_request_method"):
            raise Refusal(400, "missing iam_http_request_method")
        _decoded(request, "iam_request_url")
        body = _decoded(request, "iam_request_body", " which is required for POST requests")
        if parse_qs(body).get("Action") != ["GetCallerIdentity"]:
            raise Refusal(400, "iam request body is invalid")
        if not headers:
            raise Refusal(400, "missing iam_request_headers")
        self._check_server_id(headers)
        caller = self._ask_sts(headers, body)
        friendly = caller["Arn"].rpartition("/")[2]
        name = request.text("role") or friendly
        role = self._roles.get(name)
        if role is None:
            raise Refusal(400, f"entry for role {name} not found")
        if caller["Arn"] not in role.body.get("bound_iam_principal_arn", []):
            raise Refusal(
                400, f'IAM Principal "{caller["Arn"]}" does not belong to the role "{name}"'
            )
        metadata = {"account_id": caller["Account"], "auth_type": "iam", "role_id": role.role_id}
        return self._grant(role, friendly, metadata)

    def _check_server_id(self, headers: dict[str, str]) -> None:
        wanted = self.config.get("iam_server_id_header_value")
        if not wanted:
            return
        wrong = f"error validating {_SERVER_ID} header:"
        found = next((v for k, v in headers.items() if k.lower() == _SERVER_ID.lower()), None)
        if found is None:
            raise Refusal(400, f'{wrong} missing header "{_SERVER_ID}"')
        if found != wanted:
            raise Refusal(400, f'{wrong} expected "{wanted}" but got "{found}"')

    def _ask_sts(self, headers: dict[str, str], body: str) -> dict[str, str]:
        where = urlsplit(str(self.config.get("sts_endpoint", "")))
        if where.scheme != "http":
            raise Refusal(
                400,
                "error making upstream request: the emulator asks an sts_endpoint of plain HTTP",
            )
        connection = HTTPConnection(where.hostname or "", where.port, timeout=_STS_TIMEOUT)
        try:
            connection.request("POST", "/", body=body, headers=headers)
            said = connection.getresponse()
            text = said.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise Refusal(
                400, f"error making upstream request: error making request: {error}"
            ) from None
        finally:
            connection.close()
        if said.status != 200:
            raise Refusal(
                400,
                "error making upstream request: received error code "
                f"{said.status} from STS: {text}",
            )
        found = re.findall(r"<(Arn|Account)>([^<]+)</", text)
        if {name for name, _ in found} != {"Arn", "Account"}:
            raise Refusal(400, "error making upstream request: error parsing STS response")
        return dict(found)


def _decoded(request: Request, name: str, when: str = "") -> str:
    given = request.text(name)
    if not given:
        raise Refusal(400, f"missing {name}{when}")
    try:
        return base64.b64decode(given, validate=True).decode()
    except ValueError:
        raise Refusal(400, f"failed to base64 decode {name}") from None


def _headers(request: Request) -> dict[str, str]:
    """Return the headers of the signed request: a JSON object, whose values may be lists."""
    wrong = 'Field validation failed: error converting input for field "iam_request_headers":'
    given = request.text("iam_request_headers")
    if not given:
        raise Refusal(400, f"{wrong} 'data' being decoded is nil")
    try:
        parsed: dict[str, Any] = json.loads(base64.b64decode(given, validate=True))
        return {k: v[0] if isinstance(v, list) else str(v) for k, v in parsed.items()}
    except (ValueError, AttributeError, IndexError):
        raise Refusal(400, f"{wrong} not a JSON object") from None
