"""What the proxies listen with: connections, each served by a thread, that can be broken."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from contextlib import suppress
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HOST", "Listener", "reset_at_close"]

HOST = "127.0.0.1"
_LET_GO = 10.0  # seconds to wait for the threads that serve connections
_POLL = 0.02  # seconds until it notices that it is to refuse


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
        super().__init__((HOST, port), None)  # type: ignore[arg-type]  # finish_request needs none
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
                    connection.shutdown(socket.SHUT_RD)  # whoever reads from it wakes up
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
