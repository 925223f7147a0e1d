"""A server goes wrong exactly when, and exactly as, a test says."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.testing import (
    DatabaseEngine,
    Fault,
    PostgresServer,
    RequestRecord,
    VaultServer,
    vault_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SELF = "auth/token/lookup-self"
PATIENCE = 30.0
# The true answer, labelled with another content type.
RELABELLED = Fault(handled=True, headers={"Content-Type": "application/json; charset=utf-8"})


@pytest.fixture(scope="module")
def server() -> Iterator[VaultServer]:
    with VaultServer() as vault:
        yield vault


@pytest.fixture
def faulty(server: VaultServer) -> Iterator[VaultServer]:
    server.requests.clear()
    yield server
    server.faults.clear()


def look(faulty: VaultServer, timeout: float = PATIENCE) -> int:
    token = faulty.root_token
    return vault_request(faulty.address, "GET", SELF, token=token, timeout=timeout).status


def raw(faulty: VaultServer) -> tuple[int, dict[str, str], bytes]:
    where = faulty.address.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=PATIENCE)
    try:
        headers = {"X-Vault-Token": faulty.root_token.reveal()}
        connection.request("GET", f"/v1/{SELF}", headers=headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_the_first_rule_that_is_left_decides(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.error(503), skip=1)
    faulty.faults.add("*", "auth/token/*", Fault.error(500), times=2, skip=1)
    assert [look(faulty) for _ in range(5)] == [200, 503, 500, 500, 200]
    assert [record.status for record in faulty.requests] == [200, 503, 500, 500, 200]
    assert faulty.requests[0] == RequestRecord("GET", SELF, 200)
    assert faulty.count("GET", SELF) == 5
    assert faulty.count("PUT", SELF) == 0


def test_a_rule_without_end_lasts_until_cleared(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.error(412), times=None)
    assert [look(faulty) for _ in range(3)] == [412] * 3
    faulty.faults.clear()
    assert look(faulty) == 200


def test_a_request_that_does_not_match_is_not_changed(faulty: VaultServer) -> None:
    faulty.faults.add("PUT", SELF, Fault.error(500))
    faulty.faults.add("GET", "auth/token/renew-self", Fault.error(500))
    assert look(faulty) == 200


@pytest.mark.parametrize("status", [412, 429, 500, 503])
def test_an_error_has_texts_and_headers(faulty: VaultServer, status: int) -> None:
    fault = Fault.error(status, "first", "second", headers={"Retry-After": "7"})
    faulty.faults.add("GET", SELF, fault)
    found, headers, body = raw(faulty)
    assert found == status
    assert headers["retry-after"] == "7"
    assert json.loads(body) == {"errors": ["first", "second"]}


@pytest.mark.parametrize(
    ("fault", "status", "kind", "start"),
    [
        (Fault.html(), 200, "text/html; charset=utf-8", b"<html>"),
        (Fault.html(502), 502, "text/html; charset=utf-8", b"<html>"),
        (Fault.answer(200, b""), 200, "application/json", b""),
        (Fault.answer(200, b"[]"), 200, "application/json", b"[]"),
        (RELABELLED, 200, "application/json; charset=utf-8", b'{"request_id"'),
    ],
)
def test_answers_that_are_not_vaults(
    faulty: VaultServer, fault: Fault, status: int, kind: str, start: bytes
) -> None:
    faulty.faults.add("GET", SELF, fault)
    found, headers, body = raw(faulty)
    assert (found, headers["content-type"]) == (status, kind)
    assert body.startswith(start)
    assert body or headers["content-length"] == "0"


def test_a_redirect_keeps_the_path(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.redirect("http://elsewhere:8200/"))
    status, headers, _ = raw(faulty)
    assert (status, headers["location"]) == (307, f"http://elsewhere:8200/v1/{SELF}")


@pytest.mark.parametrize("end", ["clear", "remove"])
def test_a_hang_lasts_until_its_rule_is_gone(faulty: VaultServer, end: str) -> None:
    rule = faulty.faults.add("GET", SELF, Fault.hang(), times=None)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            look(faulty)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert faulty.faults.wait_until_hanging(timeout=PATIENCE)
    assert faulty.requests == [RequestRecord("GET", SELF, 0)]
    faulty.faults.remove(rule) if end == "remove" else faulty.faults.clear()
    thread.join(PATIENCE)
    assert len(caught) == 1
    assert faulty.faults.hanging == 0
    assert look(faulty) == 200


def test_removing_a_rule_leaves_the_others(faulty: VaultServer) -> None:
    first = faulty.faults.add("GET", SELF, Fault.error(503), times=None)
    faulty.faults.add("GET", SELF, Fault.error(429))
    assert look(faulty) == 503
    faulty.faults.remove(first)
    assert [look(faulty), look(faulty)] == [429, 200]


def test_a_client_may_tire_of_a_hang(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.hang())
    with pytest.raises(TimeoutError):
        look(faulty, timeout=0.05)
    # It may have tired before its request was looked at, and the rule is for that one.
    assert faulty.faults.wait_until_hanging(timeout=PATIENCE)
    assert look(faulty) == 200


def test_stopping_ends_a_hang() -> None:
    with VaultServer() as faulty:
        faulty.faults.add("GET", SELF, Fault.hang())
        with pytest.raises(TimeoutError):
            look(faulty, timeout=0.05)
        assert faulty.faults.wait_until_hanging(timeout=PATIENCE)
        start = time.monotonic()
    assert time.monotonic() - start < PATIENCE


def test_a_late_answer_is_the_true_one(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.late(0.1))
    start = time.monotonic()
    assert look(faulty) == 200
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("kind", ["reset", "hang", "error", "late"])
def test_a_mint_may_happen_without_an_answer(
    faulty: VaultServer,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    kind: str,
    handled: bool,
) -> None:
    engine = DatabaseEngine(faulty, postgres)
    path = engine.create_role(role := unique("fault"))
    faults = {
        "reset": Fault.reset(handled=handled),
        "hang": Fault.hang(handled=handled),
        "error": Fault.error(500, "oh", handled=handled),
        "late": Fault.late(60.0, handled=handled),
    }
    faulty.faults.add("GET", path, faults[kind])
    token = faulty.root_token
    if kind == "error":
        assert engine.read(role).status == 500
    else:
        # A reset has to come first, however long the mint takes.
        wanted, patience = (ConnectionError, PATIENCE) if kind == "reset" else (TimeoutError, 0.1)
        with pytest.raises(wanted):
            vault_request(faulty.address, "GET", path, token=token, timeout=patience)
    # The mint may take longer than the client's patience.
    wait_for(lambda: engine.mints(role) >= int(handled))
    assert engine.mints(role) == len(engine.leases(role)) == int(handled)


def test_half_an_answer(faulty: VaultServer) -> None:
    faulty.faults.add("GET", SELF, Fault.cut())
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        raw(faulty)
    assert faulty.requests == [RequestRecord("GET", SELF, 200)]


def test_the_server_is_told_that_a_client_hung_up(
    faulty: VaultServer, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    engine = DatabaseEngine(faulty, postgres)
    statement = f"SELECT pg_sleep(600) AS {unique('slow')}"
    path = engine.create_role(unique("abandoned"), creation_statements=[statement])

    def statements() -> int:
        with postgres.admin() as conn:
            query = "SELECT FROM pg_stat_activity WHERE query = %s AND state = 'active'"
            return conn.execute(query, [statement]).rowcount

    connection = http.client.HTTPConnection(faulty.address.removeprefix("http://"))
    headers = {"X-Vault-Token": faulty.root_token.reveal()}
    connection.request("GET", f"/v1/{path}", headers=headers)
    wait_for(lambda: statements() == 1)
    connection.close()
    wait_for(lambda: statements() == 0)
    assert faulty.requests[-1] == RequestRecord("GET", path, 0)


def test_a_connection_kept_alive_is_broken_by_stopping() -> None:
    with VaultServer() as faulty:
        where = faulty.address.removeprefix("http://")
        connection = http.client.HTTPConnection(where, timeout=PATIENCE)
        connection.request("GET", "/v1/sys/health")
        connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()


def test_many_at_once(faulty: VaultServer, postgres: PostgresServer) -> None:
    engine = DatabaseEngine(faulty, postgres)
    engine.create_role("crowd")
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(engine.read("crowd").data["username"]))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == engine.mints("crowd") == 5
    engine.admin.revoke_prefix("database/creds/crowd")
    assert not set(names) & set(postgres.roles())


def test_no_secret_shows() -> None:
    with VaultServer() as faulty:
        shown = f"{faulty!r} {faulty.root_token!r} {faulty.__dict__}"
        assert faulty.root_token.reveal() not in shown
