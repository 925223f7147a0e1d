"""Google Secret Manager and Azure Key Vault, as their published references describe them.

https://cloud.google.com/secret-manager/docs/reference/rest and
https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret. The texts of refusals are those
that users of both have reported.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from ephemeral_creds.providers.secrets.crc32c import crc32c
from rest_stub import Answer, Asked, RestStub

if TYPE_CHECKING:
    from certificates import Issued

__all__ = ["AzureKeyVault", "CloudSecrets", "GoogleSecretManager", "text_of"]


class CloudSecrets:
    """One secret of a service, by TLS, and the metadata server that gives tokens for it.

    Attributes:
        token: the access token that is valid now.
        versions: the secret's versions, the latest one last: its text, and its state.
        failures: replies to give in place of its own, in their order.
        down: whether it answers nothing but HTTP 503.
    """

    def __init__(self, issued: Issued) -> None:
        self.token = f"access-token-{secrets.token_hex(8)}"
        self.versions: list[dict[str, Any]] = []
        self.failures: deque[Answer] = deque()
        self.down = False
        self.service = RestStub(self._answer, issued)
        self.metadata = RestStub(self.give_token)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.service)
        self._stack.enter_context(self.metadata)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, value: object, **state: object) -> None:
        """Write a version."""
        self.versions.append({"text": text_of(value), **state})

    def _answer(self, asked: Asked) -> Answer:
        if self.down:
            return Answer(503, "down")
        if asked.headers.get("authorization") != f"Bearer {self.token}":
            return self.unauthorized()
        if self.failures:
            return self.failures.popleft()
        return self.read(asked)

    def unauthorized(self) -> Answer:
        raise NotImplementedError

    def read(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def give_token(self, asked: Asked) -> Answer:
        raise NotImplementedError


class GoogleSecretManager(CloudSecrets):
    """The secret ``projects/my-project/secrets/my-app``."""

    RESOURCE = "projects/my-project/secrets/my-app"

    def give_token(self, asked: Asked) -> Answer:
        assert asked.headers["metadata-flavor"] == "Google"
        return Answer(200, {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"})

    def unauthorized(self) -> Answer:
        return google_error(401, "UNAUTHENTICATED", "Request had invalid authentication")

    def read(self, asked: Asked) -> Answer:
        path = asked.what.removeprefix("GET /v1/").removesuffix(":access")
        resource, _, version = path.partition("/versions/")
        number = len(self.versions) if version == "latest" else int(version)
        if resource.replace("/locations/europe-west3", "") != self.RESOURCE or not (
            0 < number <= len(self.versions)
        ):
            return google_error(404, "NOT_FOUND", f"Secret [{resource}] not found.")
        found = self.versions[number - 1]
        if state := found.get("state"):
            name = f"{self.RESOURCE}/versions/{number}"
            said = f"Secret Version [{name}] is in {state} state."
            return google_error(400, "FAILED_PRECONDITION", said)
        data = found["text"].encode()
        payload = {
            "data": base64.b64encode(data).decode(),
            "dataCrc32c": found.get("crc", str(crc32c(data))),
        }
        name = f"{resource.replace('my-project', '123456789012')}/versions/{number}"
        return Answer(200, {"name": name, "payload": payload})


class AzureKeyVault(CloudSecrets):
    """The secret ``my-app`` of a vault."""

    def give_token(self, asked: Asked) -> Answer:
        assert asked.headers["x-identity-header"] == "the-identity-header"
        return Answer(200, {"access_token": self.token, "expires_on": "4102444800"})

    def unauthorized(self) -> Answer:
        return azure_error(401, "Unauthorized", "AKV10032: Invalid issuer.")

    def read(self, asked: Asked) -> Answer:
        path, _, query = asked.what.removeprefix("GET /secrets/").partition("?")
        assert query == "api-version=7.4"
        name, _, version = path.partition("/")
        known = {f"{number:032x}": each for number, each in enumerate(self.versions, 1)}
        number = version or next(reversed(known), "")
        if name != "my-app" or number not in known:
            said = f"A secret with (name/id) {path} was not found in this key vault."
            return azure_error(404, "SecretNotFound", said)
        found = known[number]
        if found.get("state") == "DISABLED":
            said = "Operation get is not allowed on a disabled secret."
            return azure_error(403, "Forbidden", said, "SecretDisabled")
        attributes = {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}
        attributes |= {name: found[name] for name in ("nbf", "exp") if name in found}
        id_ = f"{self.service.address}/secrets/{name}/{number}"
        return Answer(200, {"value": found["text"], "id": id_, "attributes": attributes})


def google_error(status: int, code: str, message: str, reason: str = "") -> Answer:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    error = {"code": status, "message": message, "status": code, "details": details}
    return Answer(status, {"error": error})


def azure_error(status: int, code: str, message: str, inner: str = "") -> Answer:
    error: dict[str, object] = {"code": code, "message": message}
    if inner:
        error["innererror"] = {"code": inner}
    return Answer(status, {"error": error})


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
