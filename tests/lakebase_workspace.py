"""A workspace of Databricks that gives tokens for Lakebase, as a stub.

Written from Databricks' references: the OAuth login of a service principal, "Generate Database
Credential" of the Database API and of the Postgres API, and their errors.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ephemeral_creds import Secret
from issuers import issuer_key, jwt, verified_claims
from rest_stub import Answer, Asked, RestStub

if TYPE_CHECKING:
    from certificates import Issued

__all__ = ["CLIENT", "ENDPOINT", "INSTANCE", "LakebaseWorkspace"]

CLIENT = "33333333-4444-5555-6666-777777777777"
INSTANCE = "my-instance"
ENDPOINT = "projects/my-project/branches/production/endpoints/primary"


class LakebaseWorkspace(RestStub):
    """Knows one service principal, one database instance and one endpoint.

    Attributes:
        secret: the OAuth secret of the service principal.
        life: seconds that tokens live; may be changed between requests.
        replies: what to answer to a path in place of its own reply.
    """

    def __init__(self, issued: Issued | None = None) -> None:
        super().__init__(self._answer, issued)
        self.secret = f"dose{secrets.token_hex(16)}"
        self.life = 3600.0
        self.replies: dict[str, Answer] = {}
        self._key = issuer_key()
        self._access: dict[str, float] = {}
        self._request_ids: set[str] = set()

    def access_token(self) -> str:
        """Return an access token of the workspace, as the login gives it."""
        token = secrets.token_urlsafe(24)
        Secret(token)  # so that the tests' canary knows it
        self._access[token] = time.time() + self.life
        return token

    def verify(self, user: str, token: str) -> str:
        """Return why Lakebase refuses a token, or nothing."""
        claims = verified_claims(self._key, token)
        if claims is None:
            return "its signature is wrong"
        if claims["exp"] < time.time():
            return "it has expired"
        return "" if user == claims["sub"] else f"it is of {claims['sub']}"

    def _answer(self, asked: Asked) -> Answer:
        path = asked.what.partition(" ")[2]
        if path in self.replies:
            return self.replies[path]
        if asked.what == "POST /oidc/v1/token":
            return self._log_in(asked)
        scheme, _, access = asked.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or self._access.get(access, 0.0) < time.time():
            return _error(401, "UNAUTHENTICATED", "Credential was not sent, or is invalid")
        body = json.loads(asked.body)
        if asked.what == "POST /api/2.0/database/credentials":
            request_id = str(uuid.UUID(body["request_id"]))
            if request_id in self._request_ids:
                return _error(400, "INVALID_PARAMETER_VALUE", "the request was sent before")
            self._request_ids.add(request_id)
            if body["instance_names"] != [INSTANCE]:
                return _error(404, "NOT_FOUND", "Database instance is not found.")
            return self._token("expiration_time")
        if asked.what == "POST /api/2.0/postgres/credentials":
            if body != {"endpoint": ENDPOINT}:
                return _error(404, "NOT_FOUND", "endpoint id not found")
            return self._token("expire_time")
        return _error(404, "ENDPOINT_NOT_FOUND", f"No API found for '{asked.what}'")

    def _log_in(self, asked: Asked) -> Answer:
        pair = base64.b64encode(f"{CLIENT}:{self.secret}".encode()).decode()
        if asked.headers.get("authorization") != f"Basic {pair}":
            said = f"Client authentication failed: {asked.headers.get('authorization')}"
            return Answer(401, {"error": "invalid_client", "error_description": said})
        form = {"grant_type": ["client_credentials"], "scope": ["all-apis"]}
        if parse_qs(asked.body) != form:
            return Answer(400, {"error": "invalid_request"})
        reply = {"access_token": self.access_token(), "expires_in": 3600, "token_type": "Bearer"}
        return Answer(200, reply)

    def _token(self, end_name: str) -> Answer:
        # In whole seconds, rather too early.
        ends_at = int(time.time() + self.life)
        token = jwt(self._key, sub=CLIENT, exp=ends_at, jti=secrets.token_hex(4))
        end = datetime.fromtimestamp(ends_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Answer(200, {"token": token.reveal(), end_name: end})


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error_code": code, "message": message, "details": []})
