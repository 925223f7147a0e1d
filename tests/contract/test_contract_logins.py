"""Logins by AppRole and by Kubernetes service account."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import AUTH, capped, early_in_a_second, envelope, refusal, shape

from ephemeral_creds import Secret
from ephemeral_creds.testing import (
    AppRole,
    DatabaseEngine,
    TokenReviewServer,
    make_service_account_jwt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import VaultResponse

    Unique = Callable[[str], str]

NO_TOKEN = Secret("")


@pytest.fixture(scope="module")
def reviewer() -> Iterator[TokenReviewServer]:
    with TokenReviewServer() as server:
        yield server


def approle(engine: DatabaseEngine, **body: object) -> VaultResponse:
    return engine.admin.request("POST", "auth/approle/login", body, token=NO_TOKEN)


def by_role(engine: DatabaseEngine, role: AppRole) -> VaultResponse:
    return approle(engine, role_id=role.role_id, secret_id=role.secret_id.reveal())


def test_approle(any_engine: DatabaseEngine, unique: Unique) -> None:
    any_engine.create_role(database_role := unique("ar"))
    policy = any_engine.policy(database_role)
    name = unique("machine")
    role = any_engine.admin.create_approle(name, [policy], token_ttl=30, token_max_ttl=60)
    since = early_in_a_second()
    answer = by_role(any_engine, role)
    auth = answer.body["auth"]
    assert answer.status == 200
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": {"role_name": "str"}})
    assert auth["metadata"] == {"role_name": name}
    assert auth["policies"] == sorted(["default", policy])
    assert (auth["lease_duration"], auth["renewable"], auth["orphan"]) == (30, True, True)
    token = Secret(auth["client_token"])
    renewed = any_engine.admin.request(
        "PUT", "auth/token/renew-self", {"increment": 600}, token=token
    )
    left = renewed.body["auth"]["lease_duration"]
    assert renewed.body["warnings"] == capped(left, wish="10m", maximum=60, since=since)
    plain = any_engine.admin.request("PUT", "auth/token/renew-self", token=token)
    assert plain.body["auth"]["lease_duration"] == 30
    minted = any_engine.read(database_role, token=token)
    assert minted.data["username"].startswith("v-approle-")


def test_approle_refusals(any_engine: DatabaseEngine, unique: Unique) -> None:
    role = any_engine.admin.create_approle(unique("machine"))
    secret = role.secret_id.reveal()
    once = any_engine.admin.create_approle(unique("once"), secret_id_num_uses=1)
    assert by_role(any_engine, once).status == 200
    ask = any_engine.admin.request
    no_role = "failed to determine alias name from login request"
    wrong = "invalid role or secret ID"
    assert [
        refusal(approle(any_engine, role_id="unknown", secret_id=secret)),
        refusal(approle(any_engine, role_id=role.role_id, secret_id="unknown")),
        refusal(by_role(any_engine, once)),
        refusal(approle(any_engine)),
        refusal(ask("GET", "auth/approle/login", token=NO_TOKEN)),
        refusal(ask("POST", "auth/nowhere/login", {}, token=NO_TOKEN)),
        refusal(ask("GET", "auth/approle/role/unknown")),
    ] == [
        (400, [wrong]),
        (400, [wrong]),
        (400, [wrong]),
        (500, [no_role]),
        (500, [no_role]),
        (403, ["permission denied"]),
        (404, []),
    ]


def test_kubernetes(
    any_engine: DatabaseEngine, reviewer: TokenReviewServer, unique: Unique
) -> None:
    any_engine.create_role(database_role := unique("k8s"))
    policy = any_engine.policy(database_role)
    admin = any_engine.admin
    admin.create_kubernetes_role("pod", reviewer, [policy], token_ttl=30, token_max_ttl=60)
    body = {"role": "pod", "jwt": make_service_account_jwt().reveal()}
    answer = admin.request("POST", "auth/kubernetes/login", body, token=NO_TOKEN)
    assert answer.status == 200
    metadata = {
        "role": "str",
        "service_account_name": "str",
        "service_account_namespace": "str",
        "service_account_secret_name": "str",
        "service_account_uid": "str",
    }
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": metadata})
    auth = answer.body["auth"]
    assert auth["metadata"]["service_account_name"] == "my-app"
    assert (auth["lease_duration"], auth["policies"]) == (30, sorted(["default", policy]))
    minted = any_engine.read(database_role, token=Secret(auth["client_token"]))
    assert minted.data["username"].startswith("v-kubernet-")


def test_kubernetes_refusals(any_engine: DatabaseEngine, reviewer: TokenReviewServer) -> None:
    admin = any_engine.admin
    admin.create_kubernetes_role("strict", reviewer)
    make, now = make_service_account_jwt, time.time()

    def login(jwt: str, role: str = "strict") -> tuple[int, list[str]]:
        body = {"role": role, "jwt": jwt}
        return refusal(admin.request("POST", "auth/kubernetes/login", body, token=NO_TOKEN))

    denied = (403, ["permission denied"])
    assert [
        login(make().reveal(), "unknown"),
        login(make().reveal(), ""),
        login(""),
        login("nonsense"),
        login("x.y.z"),
        login(make("other").reveal()),
        login(make(namespace="other").reveal()),
        login(make("other", "other").reveal()),
        login(make(issued_at=now - 7200).reveal()),
        login(make(issued_at=now + 3600).reveal()),
        login(make(uid="").reveal()),
    ] == [
        (400, ['invalid role name "unknown"']),
        (400, ["missing role"]),
        (400, ["missing jwt"]),
        denied,
        denied,
        (403, ["service account name not authorized"]),
        (403, ["namespace not authorized"]),
        (403, ["service account name not authorized"]),
        (403, ["invalid expiration time (exp) claim: token is expired"]),
        (403, ["invalid not before (nbf) claim: token not yet valid"]),
        (500, ["could not parse UID from claims"]),
    ]
    reviewer.refuse = True
    try:
        assert login(make().reveal()) == denied
    finally:
        reviewer.refuse = False
    answer = admin.request("GET", "auth/kubernetes/login", token=NO_TOKEN)
    assert refusal(answer) == (405, ["unsupported operation"])


def test_userpass(any_engine: DatabaseEngine, unique: Unique) -> None:
    admin = any_engine.admin
    any_engine.create_role(database_role := unique("up"))
    policy = any_engine.policy(database_role)
    admin.enable_auth("userpass")
    name, password = unique("user"), "contract-userpass-password"
    body: dict[str, object] = {"password": password, "token_policies": [policy], "token_ttl": 30}
    admin.call("POST", f"auth/userpass/users/{name}", body)

    def login(user: str, **sent: object) -> VaultResponse:
        return admin.request("POST", f"auth/userpass/login/{user}", sent, token=NO_TOKEN)

    answer = login(name, password=password)
    assert answer.status == 200
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": {"username": "str"}})
    auth = answer.body["auth"]
    assert (auth["metadata"], auth["lease_duration"]) == ({"username": name}, 30)
    assert auth["policies"] == sorted(["default", policy])
    minted = any_engine.read(database_role, token=Secret(auth["client_token"]))
    assert minted.data["username"].startswith("v-userpass-")
    wrong = (400, ["invalid username or password"])
    assert [
        refusal(login(name, password="wrong")),
        refusal(login("nobody", password=password)),
        refusal(login(name)),
    ] == [wrong, wrong, (400, ["invalid credentials"])]
