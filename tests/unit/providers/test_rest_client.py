"""Requests to services: bounded in time and size, sent once, and never an exception."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
    Secret,
)
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.http.reply import Reply
from ephemeral_creds.providers.http.rest import RestClient
from rest_stub import Answer, RestStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = Service(
    name="The service",
    address="its address",
    trust="trust",
    files="the files",
    values="the names",
)
INTRO = "The service, asked for a thing,"


def send(address: str, *, seconds: float = 10.0) -> Reply | EphemeralCredsError:
    client = RestClient(SERVICE, timeout=(seconds, seconds))
    with closing(client):
        return client.send(INTRO, "GET", address, headers={"X-Token": Secret("rest-client-token")})


@pytest.fixture
def stub() -> Iterator[RestStub]:
    with RestStub(lambda _: Answer(200, {"a": 1})) as stub:
        yield stub


def test_a_reply(stub: RestStub) -> None:
    reply = send(f"{stub.address}/x?y=1")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (200, {"a": 1})
    (asked,) = stub.requests
    assert asked.what == "GET /x?y=1"
    assert asked.headers["x-token"] == "rest-client-token"
    assert asked.headers["accept-encoding"] == "identity"


def test_a_redirect_is_not_followed(stub: RestStub) -> None:
    stub.answer = lambda _: Answer(307, "", {"Location": f"{stub.address}/elsewhere"})
    reply = send(stub.address)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.redirect) == (307, stub.address)
    assert len(stub.requests) == 1


def test_a_netrc_is_not_read(
    stub: RestStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password of-the-netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    send(stub.address)
    assert "authorization" not in stub.requests[0].headers


def test_a_request_may_have_less_time_than_its_client(stub: RestStub) -> None:
    release = threading.Event()
    stub.answer = lambda _: Answer(200 if release.wait(20.0) else 500, {})
    with closing(RestClient(SERVICE, timeout=(60.0, 60.0))) as client:
        error = client.send(INTRO, "GET", stub.address, headers={}, within=0.05)
    assert not release.is_set()
    release.set()
    assert isinstance(error, ProviderUnavailable)


def test_a_body_that_is_too_large(stub: RestStub) -> None:
    stub.answer = lambda _: Answer(200, "x" * (1024 * 1024 + 1))
    error = send(stub.address)
    assert isinstance(error, MalformedResponse)
    assert "more than 1048576 bytes" in str(error)


def test_nothing_listens() -> None:
    error = send("http://127.0.0.1:1")
    assert isinstance(error, ProviderUnavailable)
    assert str(error) == (
        f"{INTRO} cannot be reached: Connection refused; check its address and that The service "
        "runs there"
    )


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = send(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.05)
    assert isinstance(error, ProviderUnavailable)
    assert str(error) == f"{INTRO} did not answer in time"


def test_a_server_that_never_ends() -> None:
    """A byte now and then must not keep the request going."""
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(0.01):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        error = send(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.1)
        over.set()
        thread.join()
    assert isinstance(error, ProviderUnavailable)
    assert "did not answer in time" in str(error)


def test_an_address_that_cannot_be_one() -> None:
    error = send("http://[")
    assert isinstance(error, ConfigurationError)
    assert "check the names for characters that HTTP cannot carry" in str(error)


def test_no_error_has_a_secret_in_its_chain() -> None:
    error = send("http://127.0.0.1:1")
    assert isinstance(error, EphemeralCredsError)
    assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)
