"""Connections: with a time limit for the whole reply, over sockets, with server names.

A socket's timeout starts again with each byte, so that a server or proxy that sends one a second is
waited for without end. Here the timeout at the beginning of a reply limits all of it: status line,
headers and body.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import urllib3
    from typing_extensions import Buffer

__all__ = ["DeadlineAdapter", "SocketAdapter", "causes", "never_arrived"]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# What urllib3, and our TLS connections, raise for anything that fails before a request is sent.
_NOT_CONNECTED = (NewConnectionError, ConnectTimeoutError, ProxyError)


class _Reader(io.RawIOBase):
    """Reads from a socket until an instant."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float | None) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        if self._deadline is not None:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """A reply that has to be complete within its socket's timeout at its beginning."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock, sock.gettimeout()))


class _Connection(HTTPConnection):
    response_class = _DeadlineResponse


class _TLSConnection(HTTPSConnection):
    response_class = _DeadlineResponse
    trusted: str | None = None

    def connect(self) -> None:
        """Connect, and raise what shows that no request has been sent.

        urllib3 does so for TCP only: a tunnel or a handshake that fails, or takes too long, looks
        to it like a request without a reply.
        """
        if self.trusted is not None:
            # As the vault command, trust these alone; requests names the system's CAs as well.
            self.ca_certs, self.ca_cert_dir, self.ca_cert_data = None, None, self.trusted
        elif self.ca_cert_dir:
            # OpenSSL finds only files there that are named by a hash; the vault command reads all.
            self.ca_cert_data = _certificates_in(Path(self.ca_cert_dir)) or None
        try:
            super().connect()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no handshake in time") from error
        # An SSLError of urllib3's own means that a certificate file cannot be loaded.
        except (OSError, SSLError) as error:
            raise NewConnectionError(self, type(error).__name__) from error
        # Where verify is False, urllib3 would warn of each request; we warn once, by way of
        # `VaultConfig.weaknesses`.
        self.is_verified = True


def _certificates_in(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    texts = (path.read_text(encoding="ascii", errors="replace") for path in files)
    return "\n".join(found for text in texts for found in _CERTIFICATE.findall(text))


# Pyright's stubs of http.client have attributes that urllib3's own classes do not fit either.
class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection  # pyright: ignore[reportAssignmentType]


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """Makes connections whose replies have a time limit; never sends anything twice.

    Args:
        ca_certificates: the only CAs to trust, in PEM; ``None`` leaves it to ``verify``.
        server_name: the name to ask for (SNI) and to expect in the certificate; ``None`` means the
            address's.
    """

    def __init__(self, ca_certificates: str | None = None, server_name: str | None = None) -> None:
        # Not an argument of the pools': urllib3 takes this one from 2.1 on only.
        connection = type("_TLSConnection", (_TLSConnection,), {"trusted": ca_certificates})
        tls_pool = type("_TLSPool", (_TLSPool,), {"ConnectionCls": connection})
        self._pools: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": tls_pool}
        self._server_name = server_name
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: object
    ) -> None:
        """Make the pools of direct connections of our classes."""
        if self._server_name is not None:
            pool_kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: object) -> urllib3.PoolManager:
        """Make the pools of connections through a proxy of our classes."""
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class SocketAdapter(requests.adapters.HTTPAdapter):
    """Speaks HTTP over a Unix socket, such as that of a Vault Agent or Vault Proxy."""

    def __init__(self, path: str) -> None:
        self._sockets = _SocketPool(path)
        super().__init__()

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> HTTPConnectionPool:
        """Return the only pool."""
        del request, verify, proxies, cert
        return self._sockets

    def get_connection(
        self, url: str | bytes, proxies: Mapping[str, str] | None = None
    ) -> HTTPConnectionPool:
        """Return the same; requests before 2.32 calls this."""
        del url, proxies
        return self._sockets

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()
        self._sockets = _SocketPool(self._sockets.path)
        super().close()


class _SocketConnection(HTTPConnection):
    response_class = _DeadlineResponse

    def __init__(self, *args: Any, path: str, **kwargs: Any) -> None:
        self._path = path
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            made.connect(self._path)
        except OSError as error:
            made.close()
            raise NewConnectionError(self, f"cannot connect: {error.strerror}") from error
        return made


class _SocketPool(HTTPConnectionPool):
    ConnectionCls = _SocketConnection  # pyright: ignore[reportAssignmentType]

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__("localhost", maxsize=1, path=path)


def never_arrived(error: Exception) -> bool:
    """Whether a request cannot have reached the server, as there was no connection to send it on.

    Two things depend on this: whether the request may have been done, and whether the next address
    may be asked.
    """
    # InvalidURL and the like, and a CA bundle that is missing: requests did not get so far.
    if isinstance(error, ValueError) or type(error) is OSError:
        return True
    return any(isinstance(cause, _NOT_CONNECTED) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all its causes, also those that urllib3 hides in attributes."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        item = todo.pop(0)
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            todo += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
