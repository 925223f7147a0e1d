"""The proxy forwards, and breaks as told."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.testing import PostgresServer, TCPProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back whatever it gets; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join(5)
    for thread in threads:
        thread.join(5)


@pytest.fixture
def proxy(echo: int) -> Iterator[TCPProxy]:
    with TCPProxy("127.0.0.1", echo) as proxy:
        yield proxy


def connect(proxy: TCPProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)


def ask(connection: socket.socket, data: bytes = b"ping") -> bytes:
    connection.sendall(data)
    return connection.recv(len(data))


def eventually(condition: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.005)
    return True


def test_it_forwards_and_counts(proxy: TCPProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        assert (ask(one), ask(two, b"pong")) == (b"ping", b"pong")
        assert (proxy.connections, proxy.peak, proxy.total) == (2, 2, 2)
    assert eventually(lambda: proxy.connections == 0)
    assert (proxy.peak, proxy.total) == (2, 2)
    proxy.reset_counts()
    assert (proxy.peak, proxy.total) == (0, 0)


def test_much_data(proxy: TCPProxy) -> None:
    data = bytes(range(256)) * 8192
    received = bytearray()
    with connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        while len(received) < len(data):
            received += connection.recv(65536)
        sender.join()
    assert received == data


def test_cut_breaks_and_refuses_until_restored(proxy: TCPProxy) -> None:
    port = proxy.port
    with connect(proxy) as old:
        ask(old)
        proxy.cut()
        with suppress(ConnectionError):
            assert old.recv(1) == b""
        assert proxy.connections == 0
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.cut()
    proxy.restore()
    assert proxy.port == port
    with connect(proxy) as new:
        assert ask(new) == b"ping"


def test_drop_breaks_but_accepts(proxy: TCPProxy) -> None:
    with connect(proxy) as old, connect(proxy) as new:
        ask(old)
        proxy.drop()
        with suppress(ConnectionError):
            assert old.recv(1) == b""
        del new
    with connect(proxy) as connection:
        assert ask(connection) == b"ping"


def test_stall_holds_and_restore_delivers(proxy: TCPProxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.stall()
        old.sendall(b"held")
        with connect(proxy) as new:
            new.sendall(b"also")
            for connection in (old, new):
                connection.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    connection.recv(4)
                connection.settimeout(PATIENCE)
            proxy.restore()
            assert (old.recv(4), new.recv(4)) == (b"held", b"also")


def test_a_stalled_proxy_can_be_cut(proxy: TCPProxy) -> None:
    with connect(proxy) as connection:
        ask(connection)
        proxy.stall()
        connection.sendall(b"lost")
        proxy.cut()
        assert proxy.connections == 0


def test_delay_counts_for_new_connections(proxy: TCPProxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.delay = 3600.0
        assert ask(old) == b"ping"
        proxy.delay = 0.15
        start = time.monotonic()
        with connect(proxy) as new:
            assert ask(new) == b"ping"
            assert time.monotonic() - start >= 0.15


def test_cut_does_not_wait_for_a_delay(proxy: TCPProxy) -> None:
    proxy.delay = 3600.0
    with connect(proxy):
        assert eventually(lambda: proxy.connections == 1)
        start = time.monotonic()
        proxy.cut()
        assert time.monotonic() - start < PATIENCE


def test_a_server_that_is_away() -> None:
    # Not a port that was free a moment ago, which another process may have taken since.
    with TCPProxy("127.0.0.1", 1) as proxy, connect(proxy) as connection:
        with suppress(ConnectionError):
            assert connection.recv(1) == b""
        assert eventually(lambda: proxy.connections == 0)


def test_postgresql_behind_it(postgres: PostgresServer) -> None:
    with TCPProxy(postgres.host, postgres.port) as proxy:
        conn = psycopg.connect(
            f"host={proxy.host} port={proxy.port} dbname=postgres",
            user=postgres.superuser,
            password=postgres.password.reveal(),
        )
        with closing(conn):
            assert conn.execute("SELECT 1").fetchone() == (1,)
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
