"""A time limit for a whole answer, where sockets only have one for each piece of it.

A socket's timeout starts anew with each byte, so that a server, or what is in between, that sends
one a second is waited for as long as it likes. Here the timeout with which the wait for an answer
begins is the limit for all of it: status line, headers and body.
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
import urllib3.connection
import urllib3.connectionpool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Buffer

__all__ = ["DeadlineAdapter", "NamedServerAdapter", "SocketAdapter", "causes", "never_arrived"]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class _Reader(io.RawIOBase):
    """Reads from a socket until an instant."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float | None) -> None:
        self._raw = raw
        self._sock = sock
        self._ends_at = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        if self._ends_at is not None:
            remaining = self._ends_at - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class DeadlineResponse(http.client.HTTPResponse):
    """An answer that has to be complete within its socket's timeout at its beginning."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock, sock.gettimeout()))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = DeadlineResponse


class _TLSConnection(urllib3.connection.HTTPSConnection):
    response_class = DeadlineResponse
    trusted: str | None = None

    def connect(self) -> None:
        """Connect, and have it told apart from later trouble that no request has been sent yet.

        urllib3 does so for TCP only: a tunnel or a handshake that fails, or takes too long, looks
        to it as if there had been no answer to a request.
        """
        if self.trusted is not None:
            # The vault command trusts nobody else then; requests names the system's CAs as well.
            self.ca_certs, self.ca_cert_dir, self.ca_cert_data = None, None, self.trusted
        elif self.ca_cert_dir:
            # OpenSSL finds only files there that are named by a hash; the vault command reads all.
            self.ca_cert_data = _certificates_in(Path(self.ca_cert_dir)) or None
        try:
            super().connect()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no handshake in time") from error
        # urllib3's own where a file of certificates is of no use.
        except (OSError, SSLError) as error:
            raise NewConnectionError(self, type(error).__name__) from error
        # Where verify is False, urllib3 would warn of each request; we warn of it once, by way of
        # `VaultConfig.weaknesses`.
        self.is_verified = True


def _certificates_in(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    texts = (path.read_text(encoding="ascii", errors="replace") for path in files)
    return "\n".join(found for text in texts for found in _CERTIFICATE.findall(text))


# Pyright's idea of http.client has attributes that urllib3's own classes do not fit either.
class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class _TLSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection  # pyright: ignore[reportAssignmentType]


def _pools(trusted: str | None) -> dict[str, type[urllib3.connectionpool.HTTPConnectionPool]]:
    # Not an argument of the pools': urllib3 takes this one from 2.1 on only.
    connection = type("_TLSConnection", (_TLSConnection,), {"trusted": trusted})
    return {"http": _Pool, "https": type("_TLSPool", (_TLSPool,), {"ConnectionCls": connection})}


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """Makes connections whose answers have a time limit; never sends anything twice.

    Args:
        ca_certificates: whom alone to trust, in PEM; ``None`` leaves it to ``verify``.
    """

    def __init__(self, ca_certificates: str | None = None) -> None:
        self._pools = _pools(ca_certificates)
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: object
    ) -> None:
        """Have the pools of direct connections made of our classes."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: object) -> urllib3.PoolManager:
        """Have the pools of connections through a proxy made of them, too."""
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


# What urllib3, and our connections by TLS, raise for all that happens before a request is sent.
_NOT_CONNECTED = (NewConnectionError, ConnectTimeoutError, ProxyError)


class NamedServerAdapter(DeadlineAdapter):
    """Expects the certificate of another name than the address's, and asks for it (SNI)."""

    def __init__(self, server_name: str, ca_certificates: str | None = None) -> None:
        self._server_name = server_name
        super().__init__(ca_certificates)

    def init_poolmanager(  # type: ignore[no-untyped-def]  # as untyped as what it overrides
        self, connections, maxsize, block=False, **kwargs
    ) -> None:
        """Have each connection check the name."""
        kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(connections, maxsize, block, **kwargs)


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
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        """Return the one pool that there is."""
        del request, verify, proxies, cert
        return self._sockets

    def get_connection(
        self, url: str | bytes, proxies: Mapping[str, str] | None = None
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        """Return the same; this is what requests before 2.32 asks for."""
        del url, proxies
        return self._sockets

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()
        self._sockets = _SocketPool(self._sockets.path)
        super().close()


class _SocketConnection(urllib3.connection.HTTPConnection):
    response_class = DeadlineResponse

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


class _SocketPool(urllib3.connectionpool.HTTPConnectionPool):
    # urllib3's own class does not fit the protocol that it declares here, for pyright.
    ConnectionCls = _SocketConnection  # pyright: ignore[reportAssignmentType]

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__("localhost", maxsize=1, path=path)


def never_arrived(error: Exception) -> bool:
    """Whether a request cannot have reached the server, as there was nothing to send it on.

    This decides two things: only then is what was asked not in doubt, and only then may the next
    address be asked for it.
    """
    # InvalidURL and the like, and a CA bundle that is missing: requests did not get so far.
    if isinstance(error, ValueError) or type(error) is OSError:
        return True
    return any(isinstance(cause, _NOT_CONNECTED) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, urllib3's habit of hiding them included."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        item = todo.pop(0)
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            todo += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
