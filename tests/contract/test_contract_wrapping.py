"""Response wrapping: an answer behind a token that opens it once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import AUTH, BAD_TOKEN, DENIED, envelope, refusal, shape

from ephemeral_creds import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, VaultResponse

    Unique = Callable[[str], str]

NO_TOKEN = Secret("")
INVALID = (400, ["wrapping token is not valid or does not exist"])
INFO = {
    "token": "str",
    "accessor": "str",
    "ttl": "int",
    "creation_time": "str",
    "creation_path": "str",
}


@pytest.fixture
def path(engine: DatabaseEngine, unique: Unique) -> str:
    """Where the secret ids of an AppRole come from."""
    engine.admin.create_approle(name := unique("wrapped"))
    return f"auth/approle/role/{name}/secret-id"


def wrapped(engine: DatabaseEngine, path: str, ttl: str = "60") -> Secret:
    answer = engine.admin.request("POST", path, {}, wrap_ttl=ttl)
    return Secret(answer.body["wrap_info"]["token"])


def unwrap(engine: DatabaseEngine, by: Secret, wrapping: Secret | None = None) -> VaultResponse:
    body = {} if wrapping is None else {"token": wrapping.reveal()}
    return engine.admin.request("PUT", "sys/wrapping/unwrap", body, token=by)


def test_a_wrapped_secret_id_opens_once(engine: DatabaseEngine, path: str) -> None:
    answer = engine.admin.request("POST", path, {}, wrap_ttl="1m")
    info = answer.body["wrap_info"]
    assert answer.status == 200
    assert shape(answer.body) == envelope() | {"wrap_info": INFO | {"wrapped_accessor": "str"}}
    assert (info["ttl"], info["creation_path"]) == (60, path)
    assert answer.body["request_id"] == ""
    opened = unwrap(engine, token := Secret(info["token"]))
    assert opened.status == 200
    assert shape(opened.body) == envelope(
        {
            "secret_id": "str",
            "secret_id_accessor": "str",
            "secret_id_num_uses": "int",
            "secret_id_ttl": "int",
        }
    )
    assert opened.data["secret_id_accessor"] == info["wrapped_accessor"]
    assert refusal(unwrap(engine, token)) == INVALID
    root = engine.vault.root_token
    assert refusal(unwrap(engine, root, token)) == INVALID


def test_unwrapping_with_another_token(engine: DatabaseEngine, path: str) -> None:
    admin = engine.admin
    default = admin.create_token()
    nothing = admin.create_token(["nothing-at-all"], no_default_policy=True)
    token = wrapped(engine, path)
    assert refusal(unwrap(engine, nothing, token)) == (403, [DENIED])
    assert refusal(unwrap(engine, NO_TOKEN, token)) == (403, ["permission denied"])
    unknown = Secret("hvs.never-issued")
    assert refusal(unwrap(engine, unknown, token)) == (403, [BAD_TOKEN])
    assert unwrap(engine, default, token).data["secret_id"]
    assert [
        refusal(unwrap(engine, default, token)),
        refusal(unwrap(engine, default, default)),
        refusal(unwrap(engine, default)),
        refusal(unwrap(engine, unknown)),
        refusal(unwrap(engine, NO_TOKEN, unknown)),
        refusal(unwrap(engine, NO_TOKEN)),
    ] == [INVALID] * 5 + [(403, ["error validating wrapping token: token is empty"])]


def test_looking_does_not_open(engine: DatabaseEngine, path: str) -> None:
    token = wrapped(engine, path)
    ask = engine.admin.request
    look = "sys/wrapping/lookup"
    answers = [
        ask("POST", look, {"token": token.reveal()}),
        ask("POST", look, {"token": token.reveal()}, token=NO_TOKEN),
        ask("GET", look, token=token),
    ]
    for answer in answers:
        assert answer.status == 200
        assert shape(answer.body) == envelope(
            {"creation_path": "str", "creation_time": "str", "creation_ttl": "int"}
        )
        assert (answer.data["creation_path"], answer.data["creation_ttl"]) == (path, 60)
    assert refusal(ask("POST", look, {"token": "unknown"})) == INVALID
    assert unwrap(engine, token).status == 200
    assert refusal(ask("POST", look, {"token": token.reveal()})) == INVALID


def test_its_only_use_may_be_wasted_and_its_time_run_out(engine: DatabaseEngine, path: str) -> None:
    brief = wrapped(engine, path, "1s")
    issued = time.monotonic()
    for wrong in ("auth/token/lookup-self", "sys/mounts", "sys/wrapping/unwrap"):
        token = wrapped(engine, path)
        answer = engine.admin.request("GET", wrong, token=token)
        assert refusal(answer) == (403, [DENIED])
        assert refusal(unwrap(engine, token)) == INVALID
    time.sleep(max(0.0, issued + 1.1 - time.monotonic()))
    assert refusal(unwrap(engine, brief)) == INVALID


def test_anything_can_be_wrapped(engine: DatabaseEngine, unique: Unique) -> None:
    admin = engine.admin
    engine.create_role(role := unique("wrapped"))
    answer = admin.request("GET", f"{engine.mount}/creds/{role}", wrap_ttl="60")
    assert shape(answer.body) == envelope() | {"wrap_info": INFO}
    minted = unwrap(engine, Secret(answer.body["wrap_info"]["token"]))
    engine.login(minted.data).close()
    assert engine.leases(role) == [minted.body["lease_id"]]

    machine = admin.create_approle(unique("machine"))
    body = {"role_id": machine.role_id, "secret_id": machine.secret_id.reveal()}
    answer = admin.request("POST", "auth/approle/login", body, token=NO_TOKEN, wrap_ttl="60")
    info = answer.body["wrap_info"]
    opened = unwrap(engine, Secret(info["token"]))
    assert shape(opened.body) == envelope(auth=AUTH | {"metadata": {"role_name": "str"}})
    assert opened.body["auth"]["accessor"] == info["wrapped_accessor"]

    token = admin.request("POST", "sys/wrapping/wrap", {"a": "b"}, wrap_ttl="60")
    opened = unwrap(engine, Secret(token.body["wrap_info"]["token"]))
    assert opened.data == {"a": "b"}


def test_requests_that_are_not_wrapped(engine: DatabaseEngine, path: str) -> None:
    ask = engine.admin.request
    assert ask("POST", path, {}, wrap_ttl="0").data["secret_id"]
    bad = "error parsing X-Vault-Wrap-TTL header:"
    assert [
        refusal(ask("GET", "auth/approle/role/nothing", wrap_ttl="60")),
        refusal(ask("POST", path, {}, wrap_ttl="abc")),
        refusal(ask("POST", path, {}, wrap_ttl="-5")),
        refusal(ask("POST", "sys/wrapping/wrap", {"a": "b"})),
    ] == [
        (404, []),
        (400, [f'{bad} time: invalid duration "abc"']),
        (400, [f"{bad} requested wrap ttl cannot be negative"]),
        (400, ["endpoint requires response wrapping to be used"]),
    ]
