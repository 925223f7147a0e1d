"""The emulator's outside: a server that speaks HTTP, can be paused, and goes wrong on request."""

from __future__ import annotations

import json
import secrets
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from ephemeral_creds._values import Secret
from ephemeral_creds.testing._emulator._core import Core
from ephemeral_creds.testing._emulator._faults import KIND, Faults
from ephemeral_creds.testing._emulator._wire import Answer, Request
from ephemeral_creds.testing._process import free_port
from ephemeral_creds.testing._vault_like import is_below

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ephemeral_creds.testing._emulator._faults import Fault

__all__ = ["RequestRecord", "VaultEmulator"]

_LOOK = 0.05  # seconds between two looks at the clock, which a test may move
_LET_GO = 10.0  # seconds to wait for the threads that serve connections


class RequestRecord(NamedTuple):
    """One request that the emulator saw; `status` is 0 as long as there is no answer."""

    method: str
    path: str
    status: int


class VaultEmulator:
    """Speaks the part of Vault's HTTP API that the library uses; its PostgreSQL roles are real.

    It runs in threads of this process, forgets everything when it stops, and passes the same
    contract tests as a real Vault. Use it where there is no real one, where an answer has to go
    wrong at one exact request (`faults`), or where a test wants to own Vault's clock.

    Args:
        clock: Vault's wall clock: Unix time in seconds. PostgreSQL compares ``VALID UNTIL`` with
            its own clock, so shift the time rather than invent one.

    Attributes:
        faults: the script of what goes wrong.
        requests: every request so far, in the order in which they arrived.
    """

    version = "emulator"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.faults = Faults()
        self.requests: list[RequestRecord] = []
        self._noting = threading.Lock()
        self._clock = clock
        self._port = 0
        self._root_token = Secret(f"hvs.{secrets.token_urlsafe(24)}")
        self._unseal_key = secrets.token_hex(32)
        self._core: Core | None = None
        self._server: _Server | None = None
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._running = threading.Event()  # cleared while paused
        self._running.set()

    def __repr__(self) -> str:
        return f"<VaultEmulator {self.address}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT``; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def root_token(self) -> Secret:
        """A token that may do everything; random for each emulator."""
        return self._root_token

    def start(self) -> Self:
        """Start, empty, and return once it answers; nothing happens if it runs."""
        if self._server is not None:
            return self
        self._port = self._port or free_port()
        self._core = core = Core(
            self._clock, self._root_token.reveal(), self._unseal_key, self.version
        )
        self._stopped.clear()
        self.faults.open()
        self._server = server = _Server(("127.0.0.1", self._port), self)
        self._threads = [
            threading.Thread(
                target=server.serve_forever,
                kwargs={"poll_interval": _LOOK},
                name="vault-emulator",
                daemon=True,
            ),
            threading.Thread(
                target=self._expire, args=(core,), name="vault-emulator-expiry", daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop, and forget everything but the address; nothing happens if it does not run.

        As with a real server, roles in PostgreSQL stay behind.
        """
        server, self._server = self._server, None
        if server is None:
            return
        self._stopped.set()
        self.resume()
        self.faults.shut()
        server.shutdown()
        server.server_close()
        server.hang_up()
        for thread in self._threads:
            thread.join(_LET_GO)
        self._threads.clear()

    def kill(self) -> None:
        """End at once; for this server the same as `stop`."""
        self.stop()

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        self._state().sealed = True

    def unseal(self) -> None:
        """Go on after `seal`."""
        self._state().sealed = False

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it since the start.

        An answer that a fault swallowed counts: the role exists.
        """
        return sum(is_below(minted, path) for minted in self._state().minted)

    def tick(self) -> None:
        """End what is due by the clock now, rather than within the next 50 ms."""
        self._state().expire()

    def count(self, method: str, path: str) -> int:
        """Return how many requests were made with `method` to exactly `path`."""
        return sum((r.method, r.path) == (method, path) for r in self.requests)

    def note(self, record: RequestRecord, place: int | None = None) -> int:
        """Add a record, or put the final one in its place; return its place."""
        with self._noting:
            if place is None:
                self.requests.append(record)
                return len(self.requests) - 1
            self.requests[place] = record
            return place

    def serve(self, method: str, request: Request) -> tuple[Answer, Fault | None]:
        """Answer a request, faults applied; called from the threads that serve connections."""
        answer = Answer(0)
        self._running.wait()
        if self._stopped.is_set():
            return answer, None
        fault = self.faults.take(method, request.path)
        if fault is None or fault.handled:
            answer = self._state().handle(request)
        if fault is not None:
            if fault.kind is KIND.HANG:
                self.faults.hold()
            elif fault.kind is KIND.DELAY:
                self.faults.hold(fault.delay)
                if not fault.handled and not self._stopped.is_set():
                    answer = self._state().handle(request)
        self._running.wait()
        return answer, fault

    def _state(self) -> Core:
        if self._core is None:
            raise RuntimeError("the emulator has not been started")
        return self._core

    def _expire(self, core: Core) -> None:
        while not self._stopped.wait(_LOOK):
            if self._running.is_set():
                core.expire()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, where: tuple[str, int], emulator: VaultEmulator) -> None:
        self.emulator = emulator
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
        )
        emulator = cast("_Server", self.server).emulator
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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # inherited name
        """Say nothing."""


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
