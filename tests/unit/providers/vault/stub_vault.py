"""A scripted HTTP server that looks like Vault as far as the provider can see."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Put together at run time, so that no line of source in a traceback holds them.
TOKEN = "-".join(["hvs", "canaryToken", "1"])
SECRET_ID = "-".join(["canary", "secret", "id", "7Q"])
PASSWORD = "-".join(["canary", "password", "9X"])

CREDS = "GET /v1/database/creds/app"
LOGIN = "POST /v1/auth/approle/login"
LOOKUP = "GET /v1/auth/token/lookup-self"
RENEW_TOKEN = "POST /v1/auth/token/renew-self"
REVOKE_TOKEN = "POST /v1/auth/token/revoke-self"
RENEW = "PUT /v1/sys/leases/renew"
REVOKE = "PUT /v1/sys/leases/revoke"


@dataclass(frozen=True)
class Reply:
    """One answer; `body` is sent as JSON unless it is text already."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"


@dataclass(frozen=True)
class Fault:
    """No answer: ``hang`` until `released` is set, or ``reset``; ``late`` answers after that."""

    what: str


@dataclass(frozen=True)
class Request:
    what: str
    headers: Mapping[str, str]
    body: dict[str, object]

    @property
    def token(self) -> str | None:
        return self.headers.get("X-Vault-Token")


def errors(status: int, *texts: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"errors": list(texts)}, named)


DENIED = errors(403, "1 error occurred:\n\t* permission denied\n\n")


class StubVault:
    """Grants everything by default; `script` puts other answers first.

    Attributes:
        requests: what has been asked, in order.
        token_ttl: seconds that a login's token lives; 0 without an end.
        token_left: seconds that a token's renewal gives at most.
        lease_ttl: seconds that a lease lives at first.
        lease_left: seconds that a lease's renewal gives at most.
        renewable: whether tokens are.
        token_type: ``service`` or ``batch``.
        arrived: set when a request begins to hang.
        before: called with each request before it is answered.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.token_ttl = 3600.0
        self.token_left = 1e9
        self.lease_ttl = 3600.0
        self.lease_left = 1e9
        self.renewable = True
        self.token_type = "service"
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.before: Callable[[Request], object] = lambda _: None
        self._logins = 0
        self._mints = 0
        self._scripts: dict[str, deque[Reply | Fault]] = defaultdict(deque)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def asked(self) -> list[str]:
        """The last parts of the paths that have been asked for, in order."""
        return [request.what.rsplit("/", 1)[1] for request in self.requests]

    def settled(self, *asked: str) -> bool:
        """Wait until just this has been asked: who sent it may have lost patience before."""
        give_up_at = time.monotonic() + 20.0
        while self.asked != list(asked):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.002)
        return True

    def forget(self) -> None:
        self.requests.clear()

    def script(self, what: str, *replies: Reply | Fault) -> None:
        self._scripts[what].extend(replies)

    def answer(self, request: Request) -> Reply | Fault:
        self.requests.append(request)
        self.before(request)
        script = self._scripts[request.what]
        return script.popleft() if script else self.default(request)

    def default(self, request: Request) -> Reply:
        match request.what:
            case what if what.endswith("/login"):
                self._logins += 1
                return Reply(body={"auth": self.auth(f"{TOKEN[:-1]}{self._logins}")})
            case what if what.endswith("/lookup-self"):
                data: dict[str, object] = {
                    "ttl": self.token_ttl,
                    "renewable": self.renewable,
                    "num_uses": 0,
                }
                data |= {"type": self.token_type, "expire_time": "2030" if self.token_ttl else None}
                return Reply(body={"data": data})
            case what if what.endswith("/renew-self"):
                asked = float(str(request.body["increment"]))
                return Reply(body={"auth": self.auth("", min(asked, self.token_left))})
            case what if what.endswith("/leases/renew"):
                asked = float(str(request.body["increment"]))
                lease = {"lease_id": request.body["lease_id"], "renewable": True}
                return Reply(body=lease | {"lease_duration": min(asked, self.lease_left)})
            case what if "/creds/" in what:
                self._mints += 1
                return Reply(body=self.creds())
        return Reply(204)

    def auth(self, token: str, ttl: float | None = None) -> dict[str, object]:
        return {
            "client_token": token,
            "accessor": f"accessor-{self._logins}",
            "lease_duration": self.token_ttl if ttl is None else ttl,
            "renewable": self.renewable,
            "token_type": self.token_type,
            "num_uses": 0,
        }

    def creds(self, **changed: object) -> dict[str, object]:
        answer: dict[str, object] = {
            "lease_id": f"database/creds/app/lease{self._mints}",
            "lease_duration": self.lease_ttl,
            "renewable": True,
            "data": {"username": f"v-app-{self._mints}", "password": PASSWORD},
        }
        return answer | changed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: StubVault

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for a delayed ACK
    timeout = 5.0

    def handle_any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else {}
        request = Request(f"{self.command} {self.path}", dict(self.headers.items()), body)
        reply = self.server.owner.answer(request)
        if isinstance(reply, Fault):
            self._fail(reply.what)
            if reply.what != "late":
                return
            reply = self.server.owner.default(request)
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        content = b"" if reply.body is None else text.encode()
        self.send_response(reply.status)
        if content:
            self.send_header("Content-Type", reply.kind)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815  # names that http.server looks for

    def _fail(self, what: str) -> None:
        self.close_connection = what != "late"
        if what == "reset":
            # Lingering for 0 s makes the kernel send a reset instead of an orderly end.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            self.server.owner.arrived.set()
            self.server.owner.released.wait(10)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
