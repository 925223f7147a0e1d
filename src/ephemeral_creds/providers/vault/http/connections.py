"""How connections to Vault come about where requests alone would not do: sockets, server names."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import requests.adapters
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError

from ephemeral_creds.providers.vault.http.deadline import DeadlineAdapter, DeadlineResponse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["NamedServerAdapter", "SocketAdapter", "causes", "never_arrived"]

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
    ) -> HTTPConnectionPool:
        """Return the one pool that there is."""
        del request, verify, proxies, cert
        return self._sockets

    def get_connection(
        self, url: str | bytes, proxies: Mapping[str, str] | None = None
    ) -> HTTPConnectionPool:
        """Return the same; this is what requests before 2.32 asks for."""
        del url, proxies
        return self._sockets

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()
        self._sockets = _SocketPool(self._sockets.path)
        super().close()


class _SocketConnection(HTTPConnection):
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


class _SocketPool(HTTPConnectionPool):
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
