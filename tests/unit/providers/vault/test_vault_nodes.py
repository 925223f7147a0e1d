"""Several nodes of one cluster: which one is asked, when one fails and when it is back."""

from __future__ import annotations

import contextlib
import logging
import socketserver
import threading
from typing import TYPE_CHECKING

import pytest
from stub_vault import CREDS, LOGIN, RENEW, SECRET_ID, Fault, Reply, Request, StubVault, errors

from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import AccessDenied, ProviderUnavailable
from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ephemeral_creds import Event
    from ephemeral_creds.testing import FakeClock

HEALTH = "health?standbyok=true&perfstandbyok=true"
SEALED = errors(503, "Vault is sealed")


class Node(StubVault):
    """A node that can fall ill as a whole.

    Attributes:
        ill: what it answers to everything; ``None`` while it is well.
    """

    ill: Reply | Fault | None = None

    def answer(self, request: Request) -> Reply | Fault:
        answer = super().answer(request)
        return answer if self.ill is None else self.ill


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    with Node() as first, Node() as second, Node() as third:
        found = [first, second, third]
        for node in found:
            node.token_ttl = 0  # without an end
        yield found


@pytest.fixture
def make(nodes: list[Node], clock: FakeClock) -> Iterator[Callable[..., VaultDynamicProvider]]:
    made: list[VaultDynamicProvider] = []

    def make(**changed: float) -> VaultDynamicProvider:
        seconds = dict.fromkeys(("connect_timeout", "read_timeout", "revoke_timeout"), 30.0)
        seconds |= changed
        config = VaultConfig(",".join(node.address for node in nodes), **seconds)  # type: ignore[arg-type]
        auth = AppRoleAuth("role-id", SECRET_ID)
        made.append(VaultDynamicProvider("app", auth=auth, config=config, clock=clock))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def asked(nodes: list[Node]) -> list[list[str]]:
    """Return what each node has been asked since the last time."""
    found = [node.asked for node in nodes]
    for node in nodes:
        node.forget()
    return found


@pytest.mark.parametrize(
    "ill",
    [Reply(502, "<html>", kind="text/html"), Fault("reset"), SEALED, Reply(302)],
    ids=["502", "reset", "sealed", "redirect"],
)
def test_a_node_that_is_ill_from_the_start_is_asked_for_its_health_only(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider], ill: Reply | Fault
) -> None:
    nodes[0].ill = ill
    make().fetch()
    health = nodes[0].requests[0]
    assert (health.token, health.headers["X-Vault-Request"]) == (None, "true")
    assert asked(nodes) == [[HEALTH], [HEALTH, "login", "app"], []]


@pytest.mark.slow  # waits for what never comes
def test_a_node_that_hangs_costs_one_connect_timeout(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider]
) -> None:
    nodes[0].ill = Fault("hang")
    # An hour for an answer would be noticed.
    make(connect_timeout=5.0, read_timeout=3600.0).fetch()
    assert asked(nodes) == [[HEALTH], [HEALTH, "login", "app"], []]


@pytest.mark.parametrize(
    "ill",
    [
        Fault("reset"),
        Reply(502),
        Reply(404, "<html>", kind="text/html"),
        errors(500, "local node not active but active cluster node not found"),
    ],
    ids=["reset", "502", "web page", "no leader"],
)
def test_a_request_in_doubt_is_not_repeated_and_the_next_one_begins_at_another_node(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider], ill: Reply | Fault
) -> None:
    provider = make()
    grant = provider.fetch()
    asked(nodes)
    nodes[0].ill = ill
    with pytest.raises(Exception, match=f"Vault at {nodes[0].address}, asked for a renewal"):
        provider.renew(grant)
    assert asked(nodes) == [["renew"], [], []]
    provider.renew(grant)
    provider.renew(grant)
    assert asked(nodes) == [[], [HEALTH, "renew", "renew"], []]


def test_a_node_that_is_back_is_asked_in_its_turn_again(
    nodes: list[Node],
    make: Callable[..., VaultDynamicProvider],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = make()
    grant = provider.fetch()
    nodes[0].ill = Reply(502)
    with caplog.at_level(logging.INFO, "ephemeral_creds"):
        with pytest.raises(ProviderUnavailable):
            provider.renew(grant)
        asked(nodes)
        # Left alone for 30 s, then for twice as long each time, and asked for its health only.
        for rest in (30, 60, 120, 240, 480, 600, 600):
            clock.advance(rest - 1)
            provider.renew(grant)
            assert asked(nodes)[0] == []
            clock.advance(1)
            provider.renew(grant)
            assert asked(nodes) == [[HEALTH], ["renew"], []]
        nodes[0].ill = None
        clock.advance(600)
        provider.renew(grant)
        provider.renew(grant)
    assert asked(nodes) == [[HEALTH, "renew", "renew"], [], []]
    assert [record.getMessage() for record in caplog.records] == [
        f"Vault at {nodes[0].address} is asked last for now: it answers HTTP 502",
        f"Vault at {nodes[0].address} answers again, and is asked in its turn",
    ]


def test_a_node_that_is_well_only_when_asked_rests_ever_longer(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider], clock: FakeClock
) -> None:
    provider = make()
    grant = provider.fetch()
    nodes[0].script(RENEW, *[Reply(502)] * 3)
    for rest in (30, 60, 120):
        with pytest.raises(ProviderUnavailable):
            provider.renew(grant)
        asked(nodes)
        clock.advance(rest - 1)
        provider.renew(grant)
        assert asked(nodes)[0] == []
        clock.advance(1)
    # It serves, and all is forgotten.
    provider.renew(grant)
    nodes[0].script(RENEW, Reply(502))
    with pytest.raises(ProviderUnavailable):
        provider.renew(grant)
    clock.advance(30)
    provider.renew(grant)
    assert asked(nodes)[0][-2:] == [HEALTH, "renew"]


def test_where_all_are_ill_they_take_turns(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider]
) -> None:
    for node in nodes:
        node.ill = Reply(502)
    provider = make()
    for turn in range(4):
        with pytest.raises(ProviderUnavailable, match=f"Vault at {nodes[turn % 3].address}, asked"):
            provider.fetch()
    assert asked(nodes) == [[HEALTH, "login", "login"], [HEALTH, "login"], [HEALTH, "login"]]


def test_trouble_that_is_not_the_nodes_changes_no_order(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make()
    for reply in (errors(500, "connection refused"), errors(429), errors(400, "unknown role")):
        nodes[0].script(CREDS, reply)
        with pytest.raises(Exception, match="credentials at database/creds/app"):
            provider.fetch()
    assert asked(nodes)[1:] == [[], []]


def test_errors_and_events_name_the_node_that_was_asked(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make()
    seen: list[Event] = []
    provider.observe(seen.append)
    provider.fetch()
    asked(nodes)
    # Sealed before it is noticed: what a sealed node refuses is asked of the next at once.
    nodes[0].ill = SEALED
    nodes[1].script(CREDS, errors(500, "connection refused"))
    with pytest.raises(ProviderUnavailable) as caught:
        provider.fetch()
    assert asked(nodes) == [["app"], ["app"], []]
    assert str(caught.value).startswith(
        f"Vault at {nodes[1].address} ({nodes[0].address} could not take it), asked for"
    )
    events = [event for event in seen if isinstance(event, ProviderRequest)]
    assert [event.address for event in events] == [
        nodes[0].address, nodes[0].address, nodes[1].address,
    ]  # fmt: skip


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("what", [LOGIN, CREDS, RENEW])
def test_a_redirect_to_an_address_that_is_configured_is_followed_with_all_it_takes(
    nodes: list[Node], make: Callable[..., VaultDynamicProvider], status: int, what: str
) -> None:
    """Addresses that are configured are trusted with tokens; no other address gets one."""
    provider = make()
    seen: list[Event] = []
    provider.observe(seen.append)
    path = what.split()[1]
    to = {"Location": f"{nodes[1].address}{path}"}
    nodes[0].script(what, Reply(status, headers=to))
    provider.renew(provider.fetch())
    (followed,) = nodes[1].requests
    (sent,) = (request for request in nodes[0].requests if request.what == what)
    assert (followed.what, followed.body, followed.token) == (what, sent.body, sent.token)
    events = [event for event in seen if isinstance(event, ProviderRequest)]
    redirected = [event.address == nodes[1].address for event in events]
    assert redirected == [what == LOGIN, what == CREDS, what == RENEW]

    with Node() as stranger:
        away = {"Location": f"{stranger.address}{path}"}
        for node in nodes:
            node.script(what, Reply(status, headers=away))
        with pytest.raises(ProviderUnavailable, match="add that node to the addresses"):
            provider.renew(make().fetch() if what != RENEW else provider.fetch())
        assert stranger.requests == []


@contextlib.contextmanager
def socket_that_says(path: Path, status: int, text: str) -> Iterator[list[bytes]]:
    """Listen on a socket and answer everything alike; yield what was asked."""
    asked: list[bytes] = []
    body = f'{{"errors": ["{text}"]}}'

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536))
            head = (
                f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            self.wfile.write(f"{head}{body}".encode())

    path.parent.mkdir(parents=True)
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def test_sockets_are_told_apart_by_all_of_their_paths(
    tmp_path_factory: pytest.TempPathFactory, clock: FakeClock
) -> None:
    folder, end = tmp_path_factory.mktemp("s"), f"{'x' * 30}/v.sock"
    first, second = folder / "1" / end, folder / "2" / end
    with (
        socket_that_says(first, 503, "Vault is sealed") as asked_first,
        socket_that_says(second, 403, "it is the second") as asked_second,
    ):
        config = VaultConfig(f"unix://{first},unix://{second}")
        auth = AppRoleAuth("role-id", SECRET_ID)
        provider = VaultDynamicProvider("app", auth=auth, config=config, clock=clock)
        with pytest.raises(AccessDenied, match=f"Vault at unix://{second}, .*it is the second"):
            provider.fetch()
        provider.close()
        assert len(asked_first) == 1
        assert len(asked_second) == 2


def test_one_address_alone_is_never_asked_for_its_health(
    stub: StubVault, provider: VaultDynamicProvider, caplog: pytest.LogCaptureFixture
) -> None:
    stub.script("POST /v1/auth/approle/login", Reply(502))
    with pytest.raises(ProviderUnavailable):
        provider.fetch()
    provider.fetch()
    assert stub.asked == ["login", "login", "app"]
    assert caplog.records == []
