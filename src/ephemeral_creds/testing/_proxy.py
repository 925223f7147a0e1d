"""A TCP proxy that can be slow, stall, or be cut, to put between a client and a server."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any, Self

from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HOST", "Listener", "TCPProxy", "reset_at_close"]

HOST = "127.0.0.1"
_LET_GO = 10.0  # seconds to wait for the threads that serve connections
_POLL = 0.02  # seconds until it notices that it is to refuse
_CHUNK = 65536
_CONNECT_TIMEOUT = 10.0


def reset_at_close(connection: socket.socket) -> None:
    """Let the peer see a reset, as with a cut cable, rather than an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Listener(ThreadingTCPServer):
    """Accepts connections at a port of 127.0.0.1; 0 is any.

    `serve` is called in a thread of its own with each connection, the client's address and this
    listener; the connection is closed when it returns.

    Attributes:
        port: where it listens.
        connections: those that are served.
        broken: those of them that were broken.
        changed: notified when one of these changes.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, serve: Callable[[socket.socket, Any, Any], object]) -> None:
        self.changed = threading.Condition()
        self.connections: set[socket.socket] = set()
        self.broken: set[socket.socket] = set()
        self._serve = serve
        super().__init__((HOST, port or free_port()), None)  # type: ignore[arg-type]  # finish_request needs none
        self.port: int = self.server_address[1]
        self._accepting = threading.Thread(target=self.serve_forever, args=(_POLL,), daemon=True)
        self._accepting.start()

    def refuse(self) -> None:
        """Accept no more connections."""
        self.shutdown()
        self._accepting.join()
        self.server_close()

    def break_all(self) -> None:
        """Break all connections, and wait for their threads."""
        with self.changed:
            self.broken |= self.connections
            for connection in self.broken:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)  # wakes a thread that reads from it
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.broken, _LET_GO)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            self.connections.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._serve(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)
        with self.changed:
            self.connections.discard(request)
            self.broken.discard(request)
            self.changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about peers that hung up; let everything else be seen."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class TCPProxy:
    """Forwards connections to a server at `host` and `port`, and breaks them when told to.

    Attributes:
        host: where to connect to: always ``127.0.0.1``.
        port: its TCP port; stays the same through `cut` and `restore`.
        delay: seconds to hold the next connections back before their first byte is forwarded.
        peak: the most connections that were open at once, since the start or `reset_counts`.
        total: how many there have been since then.
    """

    def __init__(self, host: str, port: int, *, delay: float = 0.0) -> None:
        self.host = HOST
        self.port = 0
        self.delay = delay
        self.peak = self.total = 0
        self._target = (host, port)
        self._stalled = False
        self._listener: Listener | None = None
        self.restore()

    def __repr__(self) -> str:
        host, port = self._target
        return f"<TCPProxy {self.host}:{self.port} for {host}:{port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._listener.connections) if self._listener else 0

    def reset_counts(self) -> None:
        """Let `peak` start from the connections open now, and `total` from none."""
        self.peak, self.total = self.connections, 0

    def drop(self) -> None:
        """Break all connections, and accept new ones as before."""
        if self._listener:
            self._listener.break_all()

    def cut(self) -> None:
        """Break all connections and refuse new ones, until `restore`."""
        listener, self._listener = self._listener, None
        if listener:
            listener.refuse()
            listener.break_all()

    def stall(self) -> None:
        """Forward nothing any more, on old connections and new ones, and break none.

        What arrives meanwhile is forwarded after `restore`.
        """
        self._stalled = True

    def restore(self) -> None:
        """Accept and forward again, after `cut` or `stall`."""
        self._stalled = False
        if self._listener is None:
            self._listener = Listener(self.port, self._forward)
            self.port = self._listener.port
        with self._listener.changed:
            self._listener.changed.notify_all()

    def close(self) -> None:
        """Break everything and stop. May be called again."""
        self.cut()

    def _forward(self, client: socket.socket, _: Any, listener: Listener) -> None:
        # An error on either end breaks the other one; the listener does not report it.
        with listener.changed:
            self.total += 1
            self.peak = max(self.peak, len(listener.connections))
            if self.delay:
                listener.changed.wait_for(lambda: client in listener.broken, self.delay)
        ends = [client]
        try:
            if self._may_forward(client, listener):
                ends.append(socket.create_connection(self._target, _CONNECT_TIMEOUT))
                self._pump(client, ends[1], listener)
        finally:
            for end in ends:
                if client in listener.broken:
                    reset_at_close(end)
                end.close()

    def _may_forward(self, client: socket.socket, listener: Listener) -> bool:
        """Wait while stalled; False if the connection was broken."""
        with listener.changed:
            listener.changed.wait_for(lambda: client in listener.broken or not self._stalled)
            return client not in listener.broken

    def _pump(self, client: socket.socket, server: socket.socket, listener: Listener) -> None:
        server.settimeout(None)
        other = {client: server, server: client}
        for end in other:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            ready, _, _ = select.select(list(other), [], [])
            if not self._may_forward(client, listener):
                return
            for end in ready:
                data = end.recv(_CHUNK)
                if not data:
                    return
                other[end].sendall(data)
