"""An HTTP proxy in front of a Vault: it notes what passes, and goes wrong on request."""

from __future__ import annotations

import http.client
import json
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from ephemeral_creds.testing._faults import Fault, Faults

__all__ = ["FaultProxy", "RequestRecord"]

_HOST = "127.0.0.1"
_LET_GO = 10.0  # seconds to wait for the threads that serve connections
_POLL = 0.02  # seconds until it notices that it is to end
# What is about one connection and not about the message: RFC 9110, section 7.6.1.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host"}


@dataclass(slots=True)
class RequestRecord:
    """One request that passed; `status` is 0 without an answer, `leased` tells of a lease in it."""

    method: str
    path: str
    status: int = 0
    leased: bool = field(default=False, compare=False)


class FaultProxy:
    """Passes requests on to a server, except those that are to go wrong.

    Attributes:
        faults: the script of what goes wrong.
        requests: every request so far, in the order in which they arrived.
        port: where it listens, from the first `start` on; it stays the same through `stop`.
        target: host and port of the server.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[RequestRecord] = []
        self.port = 0
        self.target: tuple[str, int] = (_HOST, 0)
        self._listener: _Listener | None = None

    def start(self) -> None:
        """Listen; nothing happens if it does."""
        if self._listener is None:
            self._listener = _Listener((_HOST, self.port), self)
            self.port = self._listener.server_port

    def stop(self) -> None:
        """Break all connections and refuse new ones; nothing happens if it does not listen."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.end()


class _Listener(ThreadingHTTPServer):
    """Takes connections, each served by a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, where: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        super().__init__(where, _Handler)
        self._accepting = threading.Thread(target=self.serve_forever, args=(_POLL,), daemon=True)
        self._accepting.start()

    def end(self) -> None:
        """Refuse new connections, break the others, and wait for their threads."""
        self.shutdown()
        self._accepting.join()
        self.server_close()
        self.proxy.faults.clear()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, _LET_GO)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that hung up; let everything else be seen."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other (Nagle)
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        proxy = cast("_Listener", self.server).proxy
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).removeprefix("/v1/")
        record = RequestRecord(self.command, path)
        proxy.requests.append(record)
        rule = proxy.faults.take(self.command, path)
        fault = rule.fault if rule else Fault()
        status, body, headers = 0, b"", dict[str, str]()
        try:
            if fault.handled:
                status, body, headers = self._ask(proxy.target, sent, record, None)
            if rule:
                proxy.faults.hold(rule)
            if fault.status:
                status, body, headers = fault.status, fault.body, {}
            elif not status and fault.breaks is None:
                client = self.connection
                status, body, headers = self._ask(proxy.target, sent, record, client)
        except (OSError, http.client.HTTPException):
            status = 0
        if status and fault.breaks != "before":
            record.status = status
            headers |= {k: v.replace("{path}", path) for k, v in fault.headers.items()}
            self._send(status, body, headers, half=fault.breaks == "within")
        if not record.status or fault.breaks:
            # No linger: the client sees a reset rather than an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_LIST = do_PATCH = do_HEAD = _serve  # noqa: N815

    def _ask(
        self,
        target: tuple[str, int],
        sent: bytes,
        record: RequestRecord,
        client: socket.socket | None,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Have the server answer, unless the client, where one is given, hangs up before."""
        server = http.client.HTTPConnection(*target)
        try:
            server.request(self.command, self.path, sent, _passed_on(self.headers.items()))
            ready = select.select([server.sock, client], [], [])[0] if client else [server.sock]
            if client and server.sock not in ready and not client.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError("nobody waits for the answer any more")
            response = server.getresponse()
            body = response.read()
        finally:
            # Also where the client has gone: the server is told, and may undo what it began.
            server.close()
        with suppress(ValueError, AttributeError):  # no JSON, or no object
            record.leased = bool(json.loads(body).get("lease_id"))
        return response.status, body, _passed_on(response.getheaders())

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, half: bool) -> None:
        self.send_response_only(status)
        if status != 204:  # an answer without content has no length either
            headers["Content-Length"] = str(len(body))
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # inherited name
        """Say nothing."""


def _passed_on(headers: Any) -> dict[str, str]:
    return {name.title(): text for name, text in headers if name.lower() not in _HOP_BY_HOP}
