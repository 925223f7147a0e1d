"""A TCP proxy that can be slow, stall, or be cut, to put between a client and a server."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

__all__ = ["TCPProxy"]

_CHUNK = 65536
_LOOK = 0.05
_CONNECT_TIMEOUT = 10.0
_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends a reset, as a cut cable's peer would see


@dataclass(eq=False, slots=True)
class _Link:
    client: socket.socket
    server: socket.socket | None = None
    broken: bool = False

    def ends(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]

    def sever(self) -> None:
        """Break both ends; the link's own thread wakes up and closes them."""
        self.broken = True
        for end in self.ends():
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                end.shutdown(socket.SHUT_RD)


class TCPProxy:
    """Forwards connections to a server, and breaks them when told to.

    Args:
        host: where the server is.
        port: its TCP port.
        delay: seconds to hold each new connection back before its first byte is forwarded.

    Attributes:
        host: always ``127.0.0.1``.
        port: the TCP port to connect to; stays the same through `cut` and `restore`.
        delay: may be changed; counts for the next connection.
    """

    def __init__(self, host: str, port: int, *, delay: float = 0.0) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.delay = delay
        self._target = (host, port)
        self._lock = threading.Condition()
        self._stalled = False
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._links: set[_Link] = set()
        self._peak = 0
        self._total = 0
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
        with self._lock:
            return len(self._links)

    @property
    def peak(self) -> int:
        """The most connections that were open at once, since the start or `reset_counts`."""
        with self._lock:
            return self._peak

    @property
    def total(self) -> int:
        """How many connections there have been, since the start or `reset_counts`."""
        with self._lock:
            return self._total

    def reset_counts(self) -> None:
        """Let `peak` start from the connections open now, and `total` from none."""
        with self._lock:
            self._peak, self._total = len(self._links), 0

    def drop(self) -> None:
        """Break all connections, and go on accepting new ones."""
        with self._lock:
            for link in self._links:
                link.sever()
            self._lock.notify_all()

    def cut(self) -> None:
        """Break all connections and refuse new ones, until `restore`."""
        with self._lock:
            listener, self._listener = self._listener, None
            acceptor, self._acceptor = self._acceptor, None
        if listener is not None and acceptor is not None:
            acceptor.join()
            listener.close()
        self.drop()
        with self._lock:
            self._lock.wait_for(lambda: not self._links, _CONNECT_TIMEOUT)

    def stall(self) -> None:
        """Forward nothing any more, on old connections and new ones, and break none.

        What arrives meanwhile is forwarded after `restore`.
        """
        with self._lock:
            self._stalled = True

    def restore(self) -> None:
        """Accept and forward again, after `cut` or `stall`."""
        with self._lock:
            self._stalled = False
            self._lock.notify_all()
            if self._listener is not None:
                return
            listener = socket.create_server((self.host, self.port), backlog=128)
            self.port = listener.getsockname()[1]
            self._listener = listener
            self._acceptor = threading.Thread(
                target=self._accept, args=(listener,), name="tcp-proxy", daemon=True
            )
            self._acceptor.start()

    def close(self) -> None:
        """Break everything and stop. May be called again."""
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            ready, _, _ = select.select([listener], [], [], _LOOK)
            if not ready:
                continue
            with suppress(OSError):
                link = _Link(listener.accept()[0])
                with self._lock:
                    self._links.add(link)
                    self._total += 1
                    self._peak = max(self._peak, len(self._links))
                threading.Thread(
                    target=self._forward, args=(link,), name="tcp-proxy-link", daemon=True
                ).start()

    def _forward(self, link: _Link) -> None:
        # An error on either end breaks the other one; there is nobody to tell but them.
        with suppress(OSError):
            if self._hold(link, self.delay):
                server = socket.create_connection(self._target, _CONNECT_TIMEOUT)
                server.settimeout(None)
                with self._lock:
                    link.server = server
                self._pump(link)
        with self._lock:
            for end in link.ends():
                end.close()
            self._links.discard(link)
            self._lock.notify_all()

    def _hold(self, link: _Link, delay: float = 0.0) -> bool:
        """Wait for `delay` seconds and while stalled; False if the link was broken."""
        with self._lock:
            if delay:
                self._lock.wait_for(lambda: link.broken, delay)
            self._lock.wait_for(lambda: link.broken or not self._stalled)
            return not link.broken

    def _pump(self, link: _Link) -> None:
        ends = link.ends()
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other = {ends[0]: ends[1], ends[1]: ends[0]}
        while True:
            ready, _, _ = select.select(ends, [], [])
            if not self._hold(link):
                return
            for end in ready:
                data = end.recv(_CHUNK)
                if not data:
                    return
                other[end].sendall(data)
