"""Logins by AppRole and by Kubernetes service account."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import AUTH, capped, early_in_a_second, envelope, refusal, shape

from differences import has, said
from ephemeral_creds import Secret
from service_accounts import TokenReviewServer, create_kubernetes_role, make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import AppRole, DatabaseEngine, VaultResponse

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


def test_approle(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(database_role := unique("ar"))
    policy = engine.policy(database_role)
    name = unique("machine")
    role = engine.admin.create_approle(name, [policy], token_ttl=30, token_max_ttl=60)
    since = early_in_a_second()
    answer = by_role(engine, role)
    auth = answer.body["auth"]
    assert answer.status == 200
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": {"role_name": "str"}})
    assert auth["metadata"] == {"role_name": name}
    assert auth["policies"] == sorted(["default", policy])
    assert (auth["lease_duration"], auth["renewable"], auth["orphan"]) == (30, True, True)
    token = Secret(auth["client_token"])
    renewed = engine.admin.request("PUT", "auth/token/renew-self", {"increment": 600}, token=token)
    left = renewed.body["auth"]["lease_duration"]
    assert renewed.body["warnings"] == capped(left, wish="10m", maximum=60, since=since)
    plain = engine.admin.request("PUT", "auth/token/renew-self", token=token)
    assert plain.body["auth"]["lease_duration"] == 30
    minted = engine.read(database_role, token=token)
    assert minted.data["username"].startswith("v-approle-")


def test_approle_refusals(engine: DatabaseEngine, unique: Unique) -> None:
    role = engine.admin.create_approle(unique("machine"))
    secret = role.secret_id.reveal()
    once = engine.admin.create_approle(unique("once"), secret_id_num_uses=1)
    assert by_role(engine, once).status == 200
    ask = engine.admin.request
    no_role = said("no role id")
    wrong = "invalid role or secret ID"
    assert [
        refusal(approle(engine, role_id="unknown", secret_id=secret)),
        refusal(approle(engine, role_id=role.role_id, secret_id="unknown")),
        refusal(by_role(engine, once)),
        refusal(approle(engine)),
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


def test_kubernetes(engine: DatabaseEngine, reviewer: TokenReviewServer, unique: Unique) -> None:
    engine.create_role(database_role := unique("k8s"))
    policy = engine.policy(database_role)
    admin = engine.admin
    create_kubernetes_role(admin, "pod", reviewer, [policy], token_ttl=30, token_max_ttl=60)
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
    minted = engine.read(database_role, token=Secret(auth["client_token"]))
    assert minted.data["username"].startswith("v-kubernet-")


def test_kubernetes_without_a_ca(
    engine: DatabaseEngine, reviewer: TokenReviewServer, unique: Unique
) -> None:
    engine.admin.enable_auth("kubernetes", mount := unique("cluster"))
    config = {"kubernetes_host": reviewer.address, "disable_local_ca_jwt": True}
    answer = engine.admin.request("POST", f"auth/{mount}/config", config)
    if has("kubernetes without a CA"):
        assert answer.status == 204
    else:
        missing = "kubernetes_ca_cert must be given when disable_local_ca_jwt is true"
        assert refusal(answer) == (400, [missing])


def test_a_service_account_that_is_gone_when_its_token_is_renewed(
    engine: DatabaseEngine, reviewer: TokenReviewServer, unique: Unique
) -> None:
    admin, role = engine.admin, unique("gone")
    create_kubernetes_role(admin, role, reviewer, token_ttl=30)
    body = {"role": role, "jwt": make_service_account_jwt().reveal()}
    login = admin.call("POST", "auth/kubernetes/login", body, token=NO_TOKEN)
    token = Secret(login.body["auth"]["client_token"])
    reviewer.refuse = True
    try:
        renewed = admin.request("PUT", "auth/token/renew-self", {}, token=token)
    finally:
        reviewer.refuse = False
    if has("review at renewal"):
        status, [text] = refusal(renewed)
        assert (status, "failed to validate token" in text) == (403, True)
    else:
        assert renewed.status == 200
    assert admin.request("GET", "auth/token/lookup-self", token=token).status == 200


def test_kubernetes_refusals(engine: DatabaseEngine, reviewer: TokenReviewServer) -> None:
    admin = engine.admin
    create_kubernetes_role(admin, "strict", reviewer)
    make, now = make_service_account_jwt, time.time()

    def login(jwt: str, role: str = "strict") -> tuple[int, list[str]]:
        body = {"role": role, "jwt": jwt}
        return refusal(admin.request("POST", "auth/kubernetes/login", body, token=NO_TOKEN))

    denied = (403, ["permission denied"])
    status, text = said("no uid").split(maxsplit=1)
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
        (int(status), [text]),
    ]
    reviewer.refuse = True
    try:
        assert login(make().reveal()) == denied
    finally:
        reviewer.refuse = False
    answer = admin.request("GET", "auth/kubernetes/login", token=NO_TOKEN)
    assert refusal(answer) == (405, ["unsupported operation"])


def test_userpass(engine: DatabaseEngine, unique: Unique) -> None:
    admin = engine.admin
    engine.create_role(database_role := unique("up"))
    policy = engine.policy(database_role)
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
    minted = engine.read(database_role, token=Secret(auth["client_token"]))
    assert minted.data["username"].startswith("v-userpass-")
    wrong = (400, ["invalid username or password"])
    status, text = said("no password").split(maxsplit=1)
    assert [
        refusal(login(name, password="wrong")),
        refusal(login("nobody", password=password)),
        refusal(login(name)),
    ] == [wrong, wrong, (int(status), [text])]
