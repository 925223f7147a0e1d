"""A service that speaks JSON over HTTP or TLS, and answers what a test tells it."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from certificates import Issued


class Asked(NamedTuple):
    """One request: ``GET /path?query``, its headers, with names in lower case, and its body."""

    what: str
    headers: dict[str, str]
    body: str = ""


class Answer(NamedTuple):
    """One reply; a body that is not text is sent as JSON."""

    status: int
    body: object
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class RestStub:
    """Listens on a port of this machine; by TLS if it has a certificate.

    Attributes:
        answer: what it answers to a request; called in a thread of its own for each.
        requests: what was asked.
    """

    def __init__(self, answer: Callable[[Asked], Answer], issued: Issued | None = None) -> None:
        self.answer = answer
        self.requests: list[Asked] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                length = int(headers.get("content-length", 0))
                body = self.rfile.read(length).decode()
                asked = Asked(f"{self.command} {self.path}", headers, body)
                stub.requests.append(asked)
                answer = stub.answer(asked)
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815 - a name that http.server looks for

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client may keep its connection open for longer than a test lasts.
        self._server.daemon_threads = True
        self._server.block_on_close = False
        scheme = "http"
        if issued is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(issued.cert, issued.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.address = f"{scheme}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
