"""An HTTP proxy in front of a Vault: it notes what passes, and goes wrong on request."""

from __future__ import annotations

import http.client
import json
import select
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from ephemeral_creds.testing._faults import Fault, Faults
from ephemeral_creds.testing._listener import HOST, Listener, reset_at_close

__all__ = ["FaultProxy", "RequestRecord"]

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
        self.target: tuple[str, int] = (HOST, 0)
        self._listener: Listener | None = None

    def start(self) -> None:
        """Listen; nothing happens if it does."""
        if self._listener is None:
            self._listener = Listener(self.port, partial(_Handler, self))
            self.port = self._listener.port

    def stop(self) -> None:
        """Break all connections and refuse new ones; nothing happens if it does not listen."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.refuse()
            self.faults.clear()
            listener.break_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other (Nagle)
    disable_nagle_algorithm = True

    def __init__(self, proxy: FaultProxy, *connection: Any) -> None:
        self._proxy = proxy
        super().__init__(*connection)

    def _serve(self) -> None:
        proxy = self._proxy
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
            reset_at_close(self.connection)
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
