"""TLS as Vault speaks it: a client is asked for a certificate and may show any, or none.

The standard library cannot do that: it ends the connection of a client whose certificate it does
not trust, while with Vault it is the auth method that decides, and says so.
"""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate
    from OpenSSL import SSL
    from typing_extensions import Buffer

__all__ = ["TLS", "Channel"]

_HANDSHAKE = b"\x16"  # the first byte of TLS: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
_NOT_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


class TLS:
    """The server's side.

    Args:
        cert: path of the server's certificate in PEM, intermediate ones after it.
        key: path of its key.

    Raises:
        ConfigurationError: pyOpenSSL is not installed, or the files are of no use.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        # Not above: the emulator is of use without it, too.
        try:
            from OpenSSL import SSL
        except ImportError:
            raise ConfigurationError(
                "the emulator speaks TLS with the package 'pyOpenSSL', which is not installed: "
                "pip install pyOpenSSL"
            ) from None
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        # A resumed session would not show the certificate again.
        self._context.set_options(SSL.OP_NO_TICKET)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        try:
            self._context.use_certificate_chain_file(str(cert))
            self._context.use_privatekey_file(str(key))
            self._context.check_privatekey()
        except SSL.Error:
            raise ConfigurationError(
                f"{cert} and {key} are not a certificate and its key, both in PEM"
            ) from None

    def accept(self, connection: socket.socket) -> Channel:
        """Shake hands over a new connection.

        Raises:
            ConnectionError: the client does not want to, or does not speak TLS.
        """
        from OpenSSL import SSL

        if connection.recv(1, socket.MSG_PEEK) not in (_HANDSHAKE, b""):
            connection.recv(65536)  # what is left unread would break the answer off
            connection.sendall(_NOT_TLS)
            raise ConnectionAbortedError("the client does not speak TLS")
        tls = SSL.Connection(self._context, connection)
        tls.set_accept_state()
        try:
            tls.do_handshake()
        except SSL.Error:
            raise ConnectionAbortedError("the client broke the handshake off") from None
        return Channel(tls)


class Channel(io.RawIOBase):
    """What is said after the handshake; closing it keeps the connection below.

    Attributes:
        certificates: what the client showed, its own first; empty for nothing.
        polite: whether `close` says goodbye.
    """

    def __init__(self, tls: SSL.Connection) -> None:
        self._tls = tls
        self.polite = True
        own = tls.get_peer_certificate(as_cryptography=True)
        others = tls.get_peer_cert_chain(as_cryptography=True) or []
        self.certificates: tuple[Certificate, ...] = () if own is None else (own, *others)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def writable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Read what is there; 0 at the end, an abrupt one included."""
        from OpenSSL import SSL

        view = memoryview(buffer)
        try:
            data = self._tls.recv(len(view))
        except SSL.Error:
            return 0
        view[: len(data)] = data
        return len(data)

    def write(self, data: Buffer, /) -> int:
        """Write some of `data`, and return how much.

        Raises:
            ConnectionError: the client has gone.
        """
        from OpenSSL import SSL

        try:
            return self._tls.send(bytes(data))
        except SSL.Error:
            raise ConnectionResetError("the client has gone") from None

    def close(self) -> None:
        """Say goodbye, so that the client knows that nothing was cut off."""
        from OpenSSL import SSL

        if not self.closed:
            super().close()
            if self.polite:
                with suppress(SSL.Error):
                    self._tls.shutdown()
