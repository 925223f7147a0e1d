"""A stand-in for the part of Kubernetes that Vault asks whether a service account is genuine."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self, cast

from ephemeral_creds import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ephemeral_creds.testing import VaultAdmin

_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_UID = "6a5e8f42-0d0c-4a51-9f0b-3b4c8a3f0f6e"


def make_service_account_jwt(
    name: str = "my-app",
    namespace: str = "default",
    *,
    lifetime: float = 3600.0,
    issued_at: float | None = None,
    uid: str = _UID,
) -> Secret:
    """Return a token as Kubernetes projects it into a pod; its signature is nonsense.

    Args:
        name: the service account.
        namespace: where it lives.
        lifetime: seconds from ``issued_at`` to its end; negative makes an expired one.
        issued_at: Unix time in seconds; ``None`` is now.
        uid: the account's unique id.
    """
    start = int(time.time() if issued_at is None else issued_at)
    claims = {
        "aud": ["https://kubernetes.default.svc"],
        "iss": "https://kubernetes.default.svc",
        "sub": f"system:serviceaccount:{namespace}:{name}",
        "iat": start,
        "nbf": start,
        "exp": int(start + lifetime),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": uid},
        },
    }
    parts = [_part({"alg": "RS256", "kid": "stub"}), _part(claims), _encoded(b"unsigned")]
    return Secret(".".join(parts))


def agent_method(
    folder: Path, role: str, name: str = "my-app", namespace: str = "default"
) -> Mapping[str, object]:
    """Return how an agent logs in as a service account, whose token goes into `folder`."""
    token = folder / "service-account-token"
    token.write_text(make_service_account_jwt(name, namespace).reveal())
    config = {"role": role, "token_path": str(token)}
    return {"type": "kubernetes", "mount_path": "auth/kubernetes", "config": config}


def create_kubernetes_role(
    admin: VaultAdmin,
    name: str,
    reviewer: TokenReviewServer,
    policies: Sequence[str] = (),
    **options: object,
) -> None:
    """Create a role for logins of ``my-app``, enabling the method where needed."""
    admin.enable_auth("kubernetes")
    config = {
        "kubernetes_host": reviewer.address,
        "kubernetes_ca_cert": reviewer.ca_certificate,
        "disable_local_ca_jwt": True,
        "token_reviewer_jwt": "stub.stub.stub",
    }
    admin.call("POST", "auth/kubernetes/config", config)
    bound = {
        "bound_service_account_names": ["my-app"],
        "bound_service_account_namespaces": ["default"],
        "token_policies": list(policies),
    }
    admin.call("POST", f"auth/kubernetes/role/{name}", {**bound, **options})


def _part(content: dict[str, object]) -> str:
    return _encoded(json.dumps(content).encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_claims(jwt: str) -> dict[str, object]:
    """Return what a token claims, unverified.

    Raises:
        ValueError: it is not a token.
    """
    _, middle, _ = jwt.split(".")
    claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    if not isinstance(claims, dict):
        raise ValueError("the claims are not an object")  # one error for callers
    return claims


class TokenReviewServer:
    """Answers TokenReview requests: every token that parses is genuine, unless refused.

    Attributes:
        ca_certificate: what to give Vault as ``kubernetes_ca_cert``. It verifies no server, as
            there is no TLS, but OpenBao demands one, and Vault that it looks like one.
        refuse: set it to let every review say "not authenticated".
        reviews: how many were asked for.
    """

    ca_certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

    def __init__(self) -> None:
        self.refuse = False
        self.reviews = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="token-review",
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """What to give Vault as ``kubernetes_host``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop answering. May be called again."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def review(self, jwt: str) -> dict[str, object]:
        """Return the status of a review of `jwt`."""
        self.reviews += 1
        try:
            claims = decode_claims(jwt)
        except ValueError:
            return {"authenticated": False, "error": "not a token"}
        if self.refuse:
            return {"authenticated": False}
        inner = claims.get("kubernetes.io")
        account = inner.get("serviceaccount", {}) if isinstance(inner, dict) else {}
        user = {"username": claims.get("sub"), "uid": account.get("uid"), "groups": []}
        return {"authenticated": True, "user": user, "audiences": claims.get("aud")}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: TokenReviewServer


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the name that http.server looks for
        owner = cast("_Server", self.server).owner
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        known = self.path == _REVIEWS
        status = owner.review(asked["spec"]["token"]) if known else {}
        body = json.dumps(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "metadata": {},
                "status": status,
            }
        ).encode()
        self.send_response(201 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # inherited name
        """Say nothing."""
