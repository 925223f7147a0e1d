"""HTTP: how requests come to the emulator, and answers and faults go back."""

from __future__ import annotations

import io
import json
import socket
import struct
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from ephemeral_creds.testing._emulator._faults import KIND
from ephemeral_creds.testing._emulator._wire import Request

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._faults import Fault
    from ephemeral_creds.testing._emulator._tls import TLS, Channel
    from ephemeral_creds.testing._emulator._wire import Answer

__all__ = ["Listener", "RequestRecord"]

_LET_GO = 10.0  # seconds to wait for the threads that serve connections


class RequestRecord(NamedTuple):
    """One request that the emulator saw; `status` is 0 as long as there is no answer."""

    method: str
    path: str
    status: int


class Served(Protocol):
    """Who answers: the emulator."""

    def note(self, record: RequestRecord, place: int | None = None) -> int:
        """Add a record, or put the final one in its place; return its place."""
        ...

    def serve(self, method: str, request: Request) -> tuple[Answer, Fault | None]:
        """Answer a request, faults applied."""
        ...


class Listener(ThreadingHTTPServer):
    """Takes connections, each served by a thread of its own, and hands requests on.

    Args:
        where: address and port.
        emulator: who answers.
        tls: what to speak HTTP over, if not over the connection itself.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, where: tuple[str, int], emulator: Served, tls: TLS | None = None) -> None:
        self.emulator = emulator
        self.tls = tls
        self._gone = threading.Condition()
        self._open: set[socket.socket] = set()
        super().__init__(where, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._gone:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._gone:
                self._open.discard(request)
                self._gone.notify_all()

    def hang_up(self) -> None:
        """Break all connections and wait for their threads."""
        with self._gone:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._gone.wait_for(lambda: not self._open, _LET_GO)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that hung up; let everything else be seen."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other (Nagle)
    disable_nagle_algorithm = True

    _channel: Channel | None = None

    def setup(self) -> None:
        """Shake hands first where it is TLS."""
        super().setup()
        tls = self._listener.tls
        if tls is not None:
            self._channel = tls.accept(self.connection)
            # These keep the connection open.
            self.rfile.close()
            self.wfile.close()
            self.rfile, self.wfile = (
                io.BufferedReader(self._channel),
                io.BufferedWriter(self._channel),
            )

    @property
    def _listener(self) -> Listener:
        return cast("Listener", self.server)

    def _serve(self) -> None:
        where = urlsplit(self.path)
        path = unquote(where.path).removeprefix("/v1/")
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        listing = self.command == "LIST" or parse_qs(where.query).get("list") == ["true"]
        verbs = {"GET": "read", "PUT": "update", "POST": "update", "DELETE": "delete"}
        operation = "list" if listing else verbs.get(self.command, self.command.lower())
        request = Request(
            operation,
            path,
            _parse(raw),
            self.headers.get("X-Vault-Token") or "",
            dict(parse_qsl(where.query)),
            self.headers.get("X-Vault-Wrap-TTL") or "",
            None if self._channel is None else self._channel.certificates,
        )
        emulator = self._listener.emulator
        place = emulator.note(RequestRecord(self.command, path, 0))
        answer, fault = emulator.serve(self.command, request)
        status = answer.status
        if fault is not None and fault.kind is KIND.ANSWER:
            status = fault.status
        if fault is not None and fault.kind in (KIND.RESET, KIND.HANG):
            status = 0
        emulator.note(RequestRecord(self.command, path, status), place)
        if status == 0:
            self._break()
        elif fault is not None and fault.kind is KIND.ANSWER:
            self._send(status, fault.body, dict(fault.headers))
        else:
            body = b"" if answer.body is None else json.dumps(answer.body).encode() + b"\n"
            headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
            if fault is not None:
                headers |= fault.headers
            self._send(status, body, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_LIST = do_PATCH = do_HEAD = _serve  # noqa: N815

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:  # an answer without content has no length either
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _break(self) -> None:
        # No linger: the client sees a reset rather than an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        if self._channel is not None:
            self._channel.polite = False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # inherited name
        """Say nothing."""


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
