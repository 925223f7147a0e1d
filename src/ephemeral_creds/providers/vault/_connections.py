"""How connections to Vault come about where requests alone would not do: sockets, server names."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import requests.adapters
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NamedServerAdapter", "SocketAdapter", "never_arrived"]


class NamedServerAdapter(requests.adapters.HTTPAdapter):
    """Expects the certificate of another name than the address's, and asks for it (SNI)."""

    def __init__(self, server_name: str) -> None:
        self._server_name = server_name
        super().__init__()

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

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()
        self._sockets = _SocketPool(self._sockets.path)
        super().close()


class _SocketConnection(HTTPConnection):
    path = ""

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            made.connect(self.path)
        except OSError as error:
            made.close()
            raise NewConnectionError(self, f"cannot connect: {error.strerror}") from error
        return made


class _SocketPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__("localhost", maxsize=1)

    def _new_conn(self) -> _SocketConnection:
        connection = _SocketConnection("localhost", timeout=self.timeout.connect_timeout)
        connection.path = self.path
        return connection


def never_arrived(error: requests.RequestException) -> bool:
    """Whether a request cannot have reached the server: there was no connection to send it on."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(error, requests.ConnectTimeout) or isinstance(
        reason, NewConnectionError | ConnectTimeoutError
    )
