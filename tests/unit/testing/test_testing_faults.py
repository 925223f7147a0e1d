"""The emulator goes wrong exactly when, and exactly as, a test says."""

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
    VaultAdmin,
    VaultEmulator,
    vault_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SELF = "auth/token/lookup-self"
PATIENCE = 30.0


def look(emulator: VaultEmulator, timeout: float = PATIENCE) -> int:
    token = emulator.root_token
    return vault_request(emulator.address, "GET", SELF, token=token, timeout=timeout).status


def raw(emulator: VaultEmulator) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(emulator.address.removeprefix("http://"), timeout=5)
    try:
        headers = {"X-Vault-Token": emulator.root_token.reveal()}
        connection.request("GET", f"/v1/{SELF}", headers=headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_first_rule_that_is_left_decides(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.error(503), skip=1)
    emulator.faults.add("*", "auth/token/*", Fault.error(500), times=2, skip=1)
    assert [look(emulator) for _ in range(5)] == [200, 503, 500, 500, 200]
    assert [record.status for record in emulator.requests] == [200, 503, 500, 500, 200]
    assert emulator.requests[0] == RequestRecord("GET", SELF, 200)
    assert emulator.count("GET", SELF) == 5
    assert emulator.count("PUT", SELF) == 0


def test_a_rule_without_end_lasts_until_cleared(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.error(412), times=None)
    assert [look(emulator) for _ in range(3)] == [412] * 3
    emulator.faults.clear()
    assert look(emulator) == 200


def test_what_does_not_match_is_left_alone(emulator: VaultEmulator) -> None:
    emulator.faults.add("PUT", SELF, Fault.error(500))
    emulator.faults.add("GET", "auth/token/renew-self", Fault.error(500))
    assert look(emulator) == 200


@pytest.mark.parametrize("status", [412, 429, 500, 503])
def test_an_error_has_texts_and_headers(emulator: VaultEmulator, status: int) -> None:
    fault = Fault.error(status, "first", "second", headers={"Retry-After": "7"})
    emulator.faults.add("GET", SELF, fault)
    found, headers, body = raw(emulator)
    assert found == status
    assert headers["retry-after"] == "7"
    assert json.loads(body) == {"errors": ["first", "second"]}


@pytest.mark.parametrize(
    ("fault", "status", "kind", "start"),
    [
        (Fault.html(), 200, "text/html; charset=utf-8", b"<html>"),
        (Fault.html(502), 502, "text/html; charset=utf-8", b"<html>"),
        (Fault.answer(200), 200, "application/json", b""),
        (Fault.answer(200, b"[]"), 200, "application/json", b"[]"),
        (Fault.retype(), 200, "application/json; charset=utf-8", b'{"request_id"'),
    ],
)
def test_answers_that_are_not_vaults(
    emulator: VaultEmulator, fault: Fault, status: int, kind: str, start: bytes
) -> None:
    emulator.faults.add("GET", SELF, fault)
    found, headers, body = raw(emulator)
    assert (found, headers["content-type"]) == (status, kind)
    assert body.startswith(start)
    assert body or headers["content-length"] == "0"


def test_a_redirect_keeps_the_path(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.redirect("http://elsewhere:8200/"))
    status, headers, _ = raw(emulator)
    assert (status, headers["location"]) == (307, f"http://elsewhere:8200/v1/{SELF}")


def test_a_hang_lasts_until_cleared(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.hang())
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            look(emulator)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert emulator.faults.wait_until_hanging(timeout=PATIENCE)
    assert emulator.requests == [RequestRecord("GET", SELF, 0)]
    emulator.faults.clear()
    thread.join(PATIENCE)
    assert len(caught) == 1
    assert emulator.faults.hanging == 0
    assert look(emulator) == 200


def test_a_client_may_tire_of_a_hang(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.hang())
    with pytest.raises(TimeoutError):
        look(emulator, timeout=0.05)
    # It may have tired before its request was looked at, and the rule is for that one.
    assert emulator.faults.wait_until_hanging(timeout=PATIENCE)
    assert look(emulator) == 200


def test_stopping_ends_a_hang() -> None:
    with VaultEmulator() as emulator:
        emulator.faults.add("GET", SELF, Fault.hang())
        with pytest.raises(TimeoutError):
            look(emulator, timeout=0.05)
        assert emulator.faults.wait_until_hanging(timeout=PATIENCE)
        start = time.monotonic()
    assert time.monotonic() - start < PATIENCE


def test_a_late_answer_is_the_true_one(emulator: VaultEmulator) -> None:
    emulator.faults.add("GET", SELF, Fault.late(0.1))
    start = time.monotonic()
    assert look(emulator) == 200
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("kind", ["reset", "hang", "error", "late"])
def test_a_mint_may_happen_without_an_answer(
    emulator: VaultEmulator,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    kind: str,
    handled: bool,
) -> None:
    engine = DatabaseEngine(emulator, postgres)
    path = engine.create_role(role := unique("fault"))
    faults = {
        "reset": Fault.reset(handled=handled),
        "hang": Fault.hang(handled=handled),
        "error": Fault.error(500, "oh", handled=handled),
        "late": Fault.late(60.0, handled=handled),
    }
    emulator.faults.add("GET", path, faults[kind])
    token = emulator.root_token
    if kind == "error":
        assert engine.read(role).status == 500
    else:
        # A reset has to come first, however long the mint takes.
        wanted, patience = (ConnectionError, PATIENCE) if kind == "reset" else (TimeoutError, 0.1)
        with pytest.raises(wanted):
            vault_request(emulator.address, "GET", path, token=token, timeout=patience)
    give_up_at = time.monotonic() + PATIENCE
    while engine.mints(role) < int(handled) and time.monotonic() < give_up_at:
        time.sleep(0.01)  # the mint may take longer than the client's patience
    assert engine.mints(role) == len(engine.leases(role)) == int(handled)


def test_pausing_holds_requests_and_resuming_answers_them(emulator: VaultEmulator) -> None:
    emulator.pause()
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(look(emulator)))
    thread.start()
    thread.join(0.1)
    assert answers == []
    emulator.resume()
    thread.join(PATIENCE)
    assert answers == [200]


def test_a_stopped_emulator_refuses_and_comes_back_empty(emulator: VaultEmulator) -> None:
    admin = VaultAdmin(emulator)
    admin.write_policy("kept", {"a/b": ["read"]})
    address = emulator.address
    emulator.stop()
    emulator.stop()
    with pytest.raises(ConnectionRefusedError):
        look(emulator)
    emulator.start()
    assert emulator.address == address
    assert look(emulator) == 200
    assert admin.request("GET", "sys/policies/acl/kept").status == 404


def test_a_connection_kept_alive_is_broken_by_stopping() -> None:
    with VaultEmulator() as emulator:
        where = emulator.address.removeprefix("http://")
        connection = http.client.HTTPConnection(where, timeout=5)
        connection.request("GET", "/v1/sys/health")
        connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()


def test_a_test_may_own_vaults_clock(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    begun, shift = time.time(), 0.0
    with VaultEmulator(lambda: begun + shift) as emulator:
        engine = DatabaseEngine(emulator, postgres)
        engine.create_role(role := unique("clock"), default_ttl=100, max_ttl=150)
        minted = engine.read(role)
        renew = {"lease_id": minted.body["lease_id"], "increment": 100}
        shift = 90.0
        answer = engine.admin.request("PUT", "sys/leases/renew", renew)
        assert answer.body["lease_duration"] in (59, 60)
        assert answer.body["warnings"]
        shift = 151.0
        emulator.tick()
        assert minted.data["username"] not in postgres.roles()
        answer = engine.admin.request("PUT", "sys/leases/renew", renew)
        assert answer.errors == ["lease not found"]


def test_many_at_once(emulator: VaultEmulator, postgres: PostgresServer) -> None:
    engine = DatabaseEngine(emulator, postgres)
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
    with VaultEmulator() as emulator:
        shown = f"{emulator!r} {emulator.root_token!r} {emulator.__dict__}"
        assert emulator.root_token.reveal() not in shown
