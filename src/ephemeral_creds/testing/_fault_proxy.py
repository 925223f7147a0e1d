"""A Vault behind an HTTP proxy, which records requests and fails on request."""

from __future__ import annotations

import http.client
import json
import select
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._faults import Fault, Faults
from ephemeral_creds.testing._proxy import HOST, Listener, reset_at_close

if TYPE_CHECKING:
    from ephemeral_creds._values import Secret

__all__ = ["ExternalVault", "RequestRecord", "VaultAccess"]

# What is about one connection and not about the message: RFC 9110, section 7.6.1.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host"}


@dataclass(slots=True)
class RequestRecord:
    """One request that passed; `status` is 0 without a reply, `leased` whether it had a lease."""

    method: str
    path: str
    status: int = 0
    leased: bool = field(default=False, compare=False)


class VaultAccess:
    """A Vault behind a proxy, which passes requests on to it, except those that are to go wrong.

    Attributes:
        root_token: a token that may do everything.
        server_address: the base URL of the server itself: no faults, no counts.
        faults: the script of what goes wrong.
        requests: every request to `address` so far, in the order in which they arrived.
    """

    def __init__(self, root_token: Secret) -> None:
        self.faults = Faults()
        self.requests: list[RequestRecord] = []
        self.root_token = root_token
        self.server_address = ""
        self._proxy_port = 0
        self._listener: Listener | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @property
    def address(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT``; stays the same from the first `start`."""
        return f"http://{HOST}:{self._proxy_port}"

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it, by lost answers, too."""
        folder = f"{path.rstrip('/')}/"  # creds/app2 is not below creds/app
        return sum(r.leased and f"{r.path}/".startswith(folder) for r in self.requests)

    def count(self, method: str, path: str) -> int:
        """Return how many requests were made to `address` with `method`, to exactly `path`."""
        return sum((r.method, r.path) == (method, path) for r in self.requests)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = Listener(self._proxy_port, partial(_Handler, self))
            self._proxy_port = self._listener.port

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.refuse()
            self.faults.clear()
            listener.break_all()


class ExternalVault(VaultAccess):
    """A Vault or OpenBao that already runs at `address`, behind a fault proxy.

    Raises:
        ConfigurationError: the address is not of the form ``http://HOST:PORT``.
    """

    def __init__(self, address: str, root_token: Secret) -> None:
        super().__init__(root_token)
        where = urlsplit(address)
        if where.scheme != "http" or where.hostname is None:
            raise ConfigurationError(
                f"{address!r} is not the address of a Vault for tests: give http://HOST:PORT"
            )
        self.server_address = f"http://{where.netloc}" + ("" if where.port else ":8200")

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other (Nagle)
    disable_nagle_algorithm = True

    def __init__(self, vault: VaultAccess, *connection: Any) -> None:
        self._vault = vault
        super().__init__(*connection)

    def _serve(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).removeprefix("/v1/")
        record = RequestRecord(self.command, path)
        self._vault.requests.append(record)
        rule = self._vault.faults.take(self.command, path)
        fault = rule.fault if rule else Fault()
        status, body, headers = 0, b"", dict[str, str]()
        try:
            if fault.handled:
                status, body, headers = self._ask(sent, record)
            if rule:
                self._vault.faults.hold(rule)
            if fault.status:
                status, body, headers = fault.status, fault.body, {}
            elif not status and fault.breaks is None:
                status, body, headers = self._ask(sent, record, self.connection)
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
        self, sent: bytes, record: RequestRecord, client: socket.socket | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Have the server answer, unless the client, if one is given, hangs up before."""
        server = http.client.HTTPConnection(self._vault.server_address.removeprefix("http://"))
        try:
            server.request(self.command, self.path, sent, _passed_on(self.headers.items()))
            ready = select.select([server.sock, client], [], [])[0] if client else [server.sock]
            if client and server.sock not in ready and not client.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError("the client no longer waits for the reply")
            response = server.getresponse()
            body = response.read()
        finally:
            # Also if the client has gone: the server is told, and may undo what it began.
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
