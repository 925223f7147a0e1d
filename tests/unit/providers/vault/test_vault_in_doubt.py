"""Whether a request may have been carried out: the event says so, and then no other node is asked.

Each fault below is at one point of an exchange, on real sockets. Two things depend on that point,
and have to agree: whether the request is in doubt, and whether the next address is asked.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import struct
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest
from stub_vault import SECRET_ID, StubVault

from certificates import Authority
from ephemeral_creds import AppRoleAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import EphemeralCredsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ephemeral_creds import Event

PATIENCE = 0.1  # seconds until a silent server is given up; the other faults do not wait for it
LONG = 30.0
HANDSHAKE = b"\x16"
CUT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
REFUSED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Fault:
    """A server with which an exchange goes wrong."""

    address: str
    verify: str | bool = True
    proxy: str | None = None
    connect_timeout: float = LONG
    read_timeout: float = LONG
    requests: queue.SimpleQueue[bytes] = field(default_factory=queue.SimpleQueue)


class Server:
    """Does the same to every connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LONG)

    def _accept(self) -> None:
        while not self._stopped:
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                # However a test ends, this thread does.
                connection.settimeout(LONG)
                with connection:
                    self._serve(connection)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


# --- Before anything is sent --------------------------------------------------------------------


@contextlib.contextmanager
def no_such_host(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    del ca
    real = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> object:
        if host == "vault.nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield Fault("http://vault.nowhere:8200")


@contextlib.contextmanager
def nothing_listens(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    del ca, monkeypatch
    # Bound, so that no other process gets the port, but not listening.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Fault(f"http://127.0.0.1:{taken.getsockname()[1]}")


@contextlib.contextmanager
def nothing_accepts(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    """A queue of connections that is full, where the system lets further ones wait."""
    del ca, monkeypatch
    if sys.platform != "linux":
        pytest.skip("other systems refuse where Linux lets wait")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        where = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(where)
        yield Fault(f"http://127.0.0.1:{where[1]}", connect_timeout=PATIENCE)


@contextlib.contextmanager
def silent_handshake(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    del ca, monkeypatch
    with Server(wait_for_the_end) as server:
        yield Fault(f"https://127.0.0.1:{server.port}", connect_timeout=PATIENCE)


def handshake(act: Callable[[socket.socket], object]) -> Callable[..., Iterator[Fault]]:
    """A fault where `act` happens in place of the server's part of the handshake."""

    @contextlib.contextmanager
    def fault(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
        del ca, monkeypatch

        def serve(connection: socket.socket) -> None:
            assert connection.recv(65536).startswith(HANDSHAKE)
            act(connection)

        with Server(serve) as server:
            yield Fault(f"https://127.0.0.1:{server.port}")

    return fault  # type: ignore[return-value]


def not_tls(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent TLS to an HTTP server.\n")
    connection.shutdown(socket.SHUT_WR)
    wait_for_the_end(connection)


def alert(connection: socket.socket) -> None:
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal, handshake_failure
    wait_for_the_end(connection)


def certificate(*, ip: str = "127.0.0.1", trusted: bool = True) -> Callable[..., Iterator[Fault]]:
    """A fault whose server has a certificate that is not trusted."""

    @contextlib.contextmanager
    def fault(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
        del monkeypatch
        with tls_server(ca, lambda connection, _: wait_for_the_end(connection), ip=ip) as made:
            yield made if trusted else Fault(made.address, requests=made.requests)

    return fault  # type: ignore[return-value]


def proxied(answer: bytes) -> Callable[..., Iterator[Fault]]:
    """A fault with a proxy that sends `answer` to a request for a tunnel."""

    @contextlib.contextmanager
    def fault(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
        del ca, monkeypatch

        def serve(connection: socket.socket) -> None:
            assert connection.recv(65536).startswith(b"CONNECT vault.test:8200")
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            wait_for_the_end(connection)

        with Server(serve) as server:
            yield Fault("https://vault.test:8200", proxy=f"http://127.0.0.1:{server.port}")

    return fault  # type: ignore[return-value]


@contextlib.contextmanager
def no_proxy(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    with nothing_listens(ca, monkeypatch) as fault:
        yield Fault("https://vault.test:8200", proxy=fault.address)


NOT_SENT = {
    "no such host": no_such_host,
    "nothing listens": nothing_listens,
    "nothing accepts": nothing_accepts,
    "a handshake without an answer": silent_handshake,
    "a handshake that is reset": handshake(reset),
    "a handshake that ends": handshake(lambda connection: None),
    "a handshake that is refused": handshake(alert),
    "a server without TLS": handshake(not_tls),
    "an unknown CA": certificate(trusted=False),
    "another name": certificate(ip="127.0.0.2"),
    "no proxy": no_proxy,
    "a proxy that refuses": proxied(REFUSED),
    "a proxy that ends": proxied(b""),
}


# --- Afterwards ---------------------------------------------------------------------------------


def plain(
    act: Callable[[socket.socket, socket.socket], object], *, read_timeout: float = LONG
) -> Callable[..., Iterator[Fault]]:
    """A fault where `act` happens in place of an answer, over plain HTTP."""

    @contextlib.contextmanager
    def fault(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
        del ca, monkeypatch
        requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def serve(connection: socket.socket) -> None:
            requests.put(connection.recv(65536))
            act(connection, connection)

        with Server(serve) as server:
            yield Fault(
                f"http://127.0.0.1:{server.port}", read_timeout=read_timeout, requests=requests
            )

    return fault  # type: ignore[return-value]


def encrypted(
    act: Callable[[socket.socket, socket.socket], object], *, read_timeout: float = LONG
) -> Callable[..., Iterator[Fault]]:
    """The same by TLS; `act` is given the connection, and what is below TLS."""

    @contextlib.contextmanager
    def fault(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
        del monkeypatch
        with tls_server(ca, act) as made:
            made.read_timeout = read_timeout
            yield made

    return fault  # type: ignore[return-value]


@contextlib.contextmanager
def tls_server(
    ca: Authority,
    act: Callable[[socket.socket, socket.socket], object],
    *,
    ip: str = "127.0.0.1",
) -> Iterator[Fault]:
    issued = ca.issue("vault.internal", server=True, ip=ip)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def serve(below: socket.socket) -> None:
        copy = below.dup()
        copy.settimeout(LONG)
        with copy, context.wrap_socket(below, server_side=True) as connection:
            if request := connection.recv(65536):
                requests.put(request)
                act(connection, copy)

    with Server(serve) as server:
        address = f"https://127.0.0.1:{server.port}"
        yield Fault(address, verify=str(ca.path), requests=requests)


def silence(connection: socket.socket, below: socket.socket) -> None:
    wait_for_the_end(connection)


def cut(connection: socket.socket, below: socket.socket) -> None:
    connection.sendall(CUT)


def broken_off(connection: socket.socket, below: socket.socket) -> None:
    reset(below)


def other_words(connection: socket.socket, below: socket.socket) -> None:
    below.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    below.shutdown(socket.SHUT_WR)
    wait_for_the_end(below)


SENT = {
    "no answer": plain(silence, read_timeout=PATIENCE),
    "a reset": plain(broken_off),
    "an end": plain(lambda connection, below: None),
    "half an answer": plain(cut),
    "no answer, by TLS": encrypted(silence, read_timeout=PATIENCE),
    "a reset, by TLS": encrypted(broken_off),
    "an end, by TLS": encrypted(lambda connection, below: None),
    "half an answer, by TLS": encrypted(cut),
    "plain HTTP in the middle of TLS": encrypted(other_words),
}


# --- What is made of it -------------------------------------------------------------------------


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def login(fault: Fault, *, elsewhere: str = "") -> tuple[bool, list[ProviderRequest]]:
    """Return whether there was a grant, and what was asked."""
    provider = VaultDynamicProvider(
        "app",
        auth=AppRoleAuth("role-id", SECRET_ID),
        config=VaultConfig(
            f"{fault.address},{elsewhere}" if elsewhere else fault.address,
            verify=fault.verify,
            # Not of the next address, which is that of a server without TLS.
            proxies={"https": fault.proxy} if fault.proxy else None,
            connect_timeout=fault.connect_timeout,
            read_timeout=fault.read_timeout,
            revoke_timeout=LONG,
        ),
    )
    seen: list[ProviderRequest] = []

    def note(event: Event) -> None:
        assert isinstance(event, ProviderRequest)
        seen.append(event)

    provider.observe(note)
    with contextlib.closing(provider):
        try:
            provider.fetch()
        except EphemeralCredsError:
            return False, seen
        return True, seen


@pytest.mark.parametrize("make", NOT_SENT.values(), ids=NOT_SENT)
def test_a_request_that_was_not_sent_is_not_in_doubt(
    make: Callable[..., contextlib.AbstractContextManager[Fault]],
    ca: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make(ca, monkeypatch) as fault:
        granted, seen = login(fault)
        assert not granted
        assert [event.outcome for event in seen] == ["failed"]
        assert "may have done" not in seen[0].error
        assert fault.requests.empty()


@pytest.mark.parametrize("make", NOT_SENT.values(), ids=NOT_SENT)
def test_a_request_that_was_not_sent_goes_to_the_next_address(
    make: Callable[..., contextlib.AbstractContextManager[Fault]],
    ca: Authority,
    monkeypatch: pytest.MonkeyPatch,
    stub: StubVault,
) -> None:
    with make(ca, monkeypatch) as fault:
        granted, _ = login(fault, elsewhere=stub.address)
        assert granted
        assert stub.asked[1:3] == ["login", "app"]
        assert fault.requests.empty()


@pytest.mark.parametrize("make", SENT.values(), ids=SENT)
def test_a_request_that_was_sent_is_in_doubt(
    make: Callable[..., contextlib.AbstractContextManager[Fault]],
    ca: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make(ca, monkeypatch) as fault:
        granted, seen = login(fault)
        assert not granted
        assert [event.outcome for event in seen] == ["unknown"]
        assert seen[0].error.startswith(("ProviderUnavailable", "MalformedResponse"))
        assert "may have carried out the request" in seen[0].error
        # It may be read only after we have given up.
        assert fault.requests.get(timeout=LONG)
        assert fault.requests.empty()


@pytest.mark.parametrize("make", SENT.values(), ids=SENT)
def test_a_request_that_was_sent_goes_to_no_other_address(
    make: Callable[..., contextlib.AbstractContextManager[Fault]],
    ca: Authority,
    monkeypatch: pytest.MonkeyPatch,
    stub: StubVault,
) -> None:
    with make(ca, monkeypatch) as fault:
        login(fault, elsewhere=stub.address)
        # Asked for its health, it has shown how it is.
        assert b"/sys/health" in fault.requests.get(timeout=LONG)
        if "login" not in stub.asked:  # too slow to say that it was well
            assert b"/login" in fault.requests.get(timeout=LONG)
        assert fault.requests.empty()
