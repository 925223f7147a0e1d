"""A server that says what a test gives it, byte for byte, whatever it is asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

__all__ = ["RawServer", "head"]


def head(length: int | None = None, kind: str = "application/json") -> bytes:
    """Return the head of a 200; without a length, the body ends with the connection."""
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{size}\r\n".encode()


class RawServer:
    """Answers every connection with the same pieces, and ends it.

    Args:
        pieces: what to send; may be endless.
        pause: seconds between two pieces.
        tls: speak TLS with this context.

    Attributes:
        asked: how many connections sent something.
        sent: how many bytes were sent.
    """

    def __init__(
        self, pieces: Iterable[bytes], *, pause: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.asked = 0
        self.sent = 0
        self._pieces = pieces
        self._pause = pause
        self._tls = tls
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if self._tls is None:
                    self._answer(connection)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                        self._answer(encrypted)

    def _answer(self, connection: socket.socket) -> None:
        if not connection.recv(65536):
            return
        self.asked += 1
        for piece in self._pieces:
            connection.sendall(piece)
            self.sent += len(piece)
            if self._closed.wait(self._pause):
                return
        connection.shutdown(socket.SHUT_WR)
        # Until the other side has gone: to close with unread data would reset the connection.
        connection.settimeout(5)
        while connection.recv(65536):
            pass
