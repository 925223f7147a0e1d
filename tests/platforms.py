"""What clouds have on a machine and beside it: metadata servers and token endpoints, as a stub.

Written from the vendors' references: Azure's instance metadata service, App Service's endpoint,
Microsoft Entra's token endpoint with a federated token, and Google Cloud's metadata server.
"""

from __future__ import annotations

import math
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ephemeral_creds import Secret
from issuers import issuer_key, jwt, verified_claims
from rest_stub import Answer, Asked, RestStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from certificates import Issued

__all__ = ["ACCOUNT", "CLIENT", "IDENTITY", "RESOURCE", "TENANT", "Platform", "machine"]

RESOURCE = "https://ossrdbms-aad.database.windows.net"
IDENTITY, CLIENT, TENANT = "my-app", "11111111-client", "22222222-tenant"
ACCOUNT = "my-app@my-project.iam.gserviceaccount.com"
_MIRID = "/subscriptions/s/providers/Microsoft.ManagedIdentity/userAssignedIdentities"


class Platform(RestStub):
    """Answers until the end of the block.

    Args:
        certificate: what it shows if it speaks TLS.

    Attributes:
        asked: method and path of each request.
        life: seconds that tokens live.
        repeats_until: the metadata servers repeat a token until it has that many seconds left; by
            default, each request brings another.
        now: the clock that this is measured with.
        claims: of the next tokens, besides the usual ones.
        refuse: the status and body of the next replies, if it is to refuse.
        federated: the pod's token that Entra's endpoint takes.
    """

    def __init__(self, certificate: Issued | None = None) -> None:
        super().__init__(self._answer, certificate)
        self.asked: list[str] = []
        self.life = 3600.0
        self.repeats_until = math.inf
        self.now: Callable[[], float] = time.monotonic
        self._given: dict[str, tuple[str, float]] = {}
        self.claims: dict[str, object] = {"xms_mirid": f"{_MIRID}/{IDENTITY}"}
        self.refuse: tuple[int, dict[str, object]] | None = None
        self.federated = secrets.token_urlsafe(16)
        self.header = secrets.token_urlsafe(16)
        self._key = issuer_key()
        self._opaque: dict[str, tuple[str, float]] = {}

    def token(self, audience: str = RESOURCE, **claims: object) -> Secret:
        """Return a token of Entra."""
        now = int(time.time())
        known: dict[str, Any] = {
            "aud": audience,
            "iat": now,
            "exp": int(now + self.life),
            "jti": now,
        }
        return jwt(self._key, **known | self.claims | claims)

    def workload_identity(self, token: Path) -> dict[str, str]:
        """Write a pod's token, and return the environment in which Entra's endpoint is found."""
        token.write_text(self.federated)
        return {
            "AZURE_FEDERATED_TOKEN_FILE": str(token),
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_AUTHORITY_HOST": f"{self.address}/",
        }

    def _answer(self, asked: Asked) -> Answer:
        self.asked.append(asked.what)
        if self.refuse is not None:
            return Answer(*self.refuse)
        headers, parts = asked.headers, urlsplit(asked.what.partition(" ")[2])
        query = parse_qs(parts.query)
        if parts.path.startswith("/computeMetadata/v1/instance/service-accounts/"):
            return Answer(*self._google(parts.path, headers, query))
        if parts.path == f"/{TENANT}/oauth2/v2.0/token":
            return Answer(*self._entra(parse_qs(asked.body)))
        app_service = parts.path == "/msi/token" and headers.get("x-identity-header") == self.header
        machine = parts.path == "/metadata/identity/oauth2/token" and headers.get("metadata")
        if not (app_service or machine):
            return Answer(400, {"error": "invalid_request"})
        if query.get("client_id", [CLIENT]) != [CLIENT]:
            said = "Identity not found"
            return Answer(400, {"error": "invalid_request", "error_description": said})
        resource = query["resource"][0]
        token, left = self._repeated(resource, lambda: self.token(resource).reveal())
        # As text, as the real ones write it.
        expires_on = str(int(time.time() + left))
        return Answer(200, {"access_token": token, "expires_on": expires_on})

    def _repeated(self, what: str, make: Callable[[], str]) -> tuple[str, float]:
        """Return a token that was given before, or another, and how many seconds are left."""
        token, ends_at = self._given.get(what, ("", -math.inf))
        if ends_at - self.now() <= self.repeats_until:
            token, ends_at = self._given[what] = make(), self.now() + self.life
        return token, ends_at - self.now()

    def _entra(self, form: dict[str, list[str]]) -> tuple[int, object]:
        scope = form["scope"][0]
        right = form["client_assertion"] == [self.federated] and form["client_id"] == [CLIENT]
        if not right or form["grant_type"] != ["client_credentials"]:
            said = "AADSTS70021: No matching federated identity record found"
            return 401, {"error": "invalid_client", "error_description": said}
        token = self.token(scope.removesuffix("/.default")).reveal()
        return 200, {"access_token": token, "expires_in": int(self.life), "token_type": "Bearer"}

    def _google(
        self, path: str, headers: dict[str, str], query: dict[str, list[str]]
    ) -> tuple[int, object]:
        account, what = path.split("/")[-2:]
        if headers.get("metadata-flavor") != "Google":
            return 403, "no flavor"
        if account not in ("default", ACCOUNT):
            return 404, "no such account"
        if what == "email":
            return 200, ACCOUNT
        scopes = query["scopes"][0]
        token, left = self._repeated(scopes, lambda: self.google_token(scopes))
        return 200, {"access_token": token, "expires_in": int(left), "token_type": "Bearer"}

    def google_token(self, scopes: str) -> str:
        """Return a token with these scopes."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self._opaque[token] = scopes, time.time() + self.life
        Secret(token)  # so that the tests' canary knows it
        return token

    # -- what the databases verify ------------------------------------------------------------

    def verify_entra(self, user: str, token: str) -> str:
        """Return why a token of Entra is refused, or nothing."""
        claims = verified_claims(self._key, token)
        if claims is None:
            return "its signature is wrong"
        if claims["aud"] != RESOURCE:
            return f"it is for {claims['aud']}"
        if claims["exp"] < time.time():
            return "it has expired"
        names = {claims.get("upn"), str(claims.get("xms_mirid")).rpartition("/")[2]}
        return "" if user in names else f"it is of {names}"

    def verify_google(self, scope: str, user: str, token: str) -> str:
        """Return why a token of Google's is refused, or nothing."""
        scopes, ends = self._opaque.get(token, ("", 0.0))
        if scope not in scopes.split(","):
            return f"it has the scopes {scopes!r}"
        if ends < time.time():
            return "it has expired"
        return "" if f"{user}.gserviceaccount.com" == ACCOUNT else f"it is of {ACCOUNT}"


@contextmanager
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Have this process find the metadata servers of Azure and Google Cloud, and nothing else."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with Platform() as made:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", made.address)
        monkeypatch.setenv("GCE_METADATA_HOST", made.host)
        yield made
