"""A Secrets Manager: moto's, which counts what it is asked and can be told to fail."""

from __future__ import annotations

import io
import json
import secrets
import threading
import urllib.request
from collections import deque
from typing import TYPE_CHECKING, Any, Self
from wsgiref.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REGION = "eu-central-1"
_SIGNED = (
    f"AWS4-HMAC-SHA256 Credential=control/20260101/{REGION}/secretsmanager/aws4_request, "
    "SignedHeaders=host, Signature=0"
)


class AWSSecrets:
    """Listens on a port of this machine.

    Attributes:
        requests: what others than `call` have asked for: ``GetSecretValue AWSCURRENT``.
        headers: those of the last such request.
        failures: status and body of replies to give in place of moto's, by action.
        down: whether it answers nothing but HTTP 503.
        on_request: called with each such request.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object, **__: object) -> None:
                pass

        self.requests: list[str] = []
        self.headers: dict[str, str] = {}
        self.failures: dict[str, deque[tuple[int, Any]]] = {}
        self.down = False
        self.on_request: Callable[[], object] = lambda: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        # Its store has no lock.
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, action: str, code: str, message: str = "", status: int = 400) -> None:
        """Answer the next request for `action` with an error."""
        body = {"__type": code, "message": message}
        self.failures.setdefault(action, deque()).append((status, body))

    def call(self, action: str, **body: object) -> dict[str, Any]:
        """Call it as an administrator."""
        request = urllib.request.Request(
            self.address,
            json.dumps(body).encode(),
            {
                "X-Amz-Target": f"secretsmanager.{action}",
                "Content-Type": "application/x-amz-json-1.1",
                "Authorization": _SIGNED,
                "X-Control": "1",
            },
        )
        with urllib.request.urlopen(request) as response:
            found: dict[str, Any] = json.load(response)
            return found

    def create(self, name: str, value: object) -> str:
        """Create a secret; return the id of its version."""
        version: str = self.call("CreateSecret", Name=name, SecretString=_text(value))["VersionId"]
        return version

    def put(self, name: str, value: object, *labels: str) -> str:
        """Write a version, by default with the label AWSCURRENT; return its id."""
        token = secrets.token_hex(16)
        put = {"SecretId": name, "SecretString": _text(value), "ClientRequestToken": token}
        self.call("PutSecretValue", **put, VersionStages=list(labels or ["AWSCURRENT"]))
        return token

    def finish(self, name: str, version: str) -> None:
        """Move the label AWSCURRENT to a version, as the last step of a rotation does."""
        stages = self.call("DescribeSecret", SecretId=name)["VersionIdsToStages"]
        current = next(known for known, labels in stages.items() if "AWSCURRENT" in labels)
        move = {"MoveToVersionId": version, "RemoveFromVersionId": current}
        self.call("UpdateSecretVersionStage", SecretId=name, VersionStage="AWSCURRENT", **move)

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        action = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")[2]
        if "HTTP_X_CONTROL" not in environ:
            self.requests.append(f"{action} {json.loads(body).get('VersionStage', '')}".strip())
            self.on_request()
            self.headers = {
                name[5:].replace("_", "-"): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            failure = self.failures[action].popleft() if self.failures.get(action) else None
            if self.down:
                failure = 503, "down"
            if failure is not None:
                status, reply = failure
                headers = Headers([("Content-Type", "application/x-amz-json-1.1")])
                start_response(f"{status} ", headers.items())
                return [_text(reply).encode()]
        with self._lock:
            return list(self._moto(environ, start_response))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
