"""Logins by JSON Web Token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import AUTH, envelope, refusal, shape

from differences import said
from ephemeral_creds import Secret
from issuers import issuer_key, jwt, public_pem

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ephemeral_creds.testing import DatabaseEngine, VaultAdmin, VaultResponse

    Unique = Callable[[str], str]

NO_TOKEN = Secret("")
ROLE: dict[str, object] = {
    "role_type": "jwt",
    "bound_audiences": ["vault"],
    "user_claim": "sub",
    "bound_claims": {"project": "app"},
    "token_ttl": 30,
}


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return issuer_key()


@pytest.fixture
def mount(engine: DatabaseEngine, unique: Unique, key: RSAPrivateKey) -> str:
    """The path of an auth method that trusts `key`, with a role ``app``."""
    admin, path = engine.admin, unique("issuer")
    admin.enable_auth("jwt", path)
    admin.call("POST", f"auth/{path}/config", {"jwt_validation_pubkeys": [public_pem(key)]})
    admin.call("POST", f"auth/{path}/role/app", ROLE)
    return f"auth/{path}"


def login(admin: VaultAdmin, mount: str, token: str, role: str = "app") -> VaultResponse:
    body = {"role": role, "jwt": token}
    return admin.request("POST", f"{mount}/login", body, token=NO_TOKEN)


def test_a_signed_token(
    engine: DatabaseEngine, unique: Unique, mount: str, key: RSAPrivateKey
) -> None:
    engine.create_role(database_role := unique("jwt"))
    policy = engine.policy(database_role)
    admin = engine.admin
    admin.call("POST", f"{mount}/role/app", ROLE | {"token_policies": [policy]})
    answer = login(admin, mount, jwt(key).reveal())
    assert answer.status == 200
    assert shape(answer.body) == envelope(auth=AUTH | {"metadata": {"role": "str"}})
    auth = answer.body["auth"]
    assert (auth["metadata"], auth["lease_duration"]) == ({"role": "app"}, 30)
    assert auth["policies"] == sorted(["default", policy])
    minted = engine.read(database_role, token=Secret(auth["client_token"]))
    assert minted.data["username"].startswith(f"v-{mount.removeprefix('auth/')}"[:10])
    again = login(admin, mount, jwt(key).reveal()).body["auth"]
    assert again["entity_id"] == auth["entity_id"]


def test_bounds(engine: DatabaseEngine, mount: str, key: RSAPrivateKey) -> None:
    admin = engine.admin
    strict = ROLE | {"bound_claims": {"project": ["a", "app"]}, "bound_subject": "job-2"}
    admin.call("POST", f"{mount}/role/strict", strict)
    open_role = {"role_type": "jwt", "user_claim": "sub", "bound_subject": "job-1"}
    admin.call("POST", f"{mount}/role/open", open_role)
    now = int(time.time())
    for role, good in (
        ("app", jwt(key, aud=["other", "vault"])),
        ("app", jwt(key, exp=now - 30)),
        ("app", jwt(key, without=["exp"])),
        ("strict", jwt(key, sub="job-2")),
        ("strict", jwt(key, sub="job-2", project=["z", "app"])),
        ("open", jwt(key, without=["aud", "project"])),
    ):
        assert login(admin, mount, good.reveal(), role).status == 200

    def refused(token: Secret, role: str = "app") -> tuple[int, list[str]]:
        return refusal(login(admin, mount, token.reveal(), role))

    times = "no issued at (iat), not before (nbf), or expiration time (exp) claims in token"
    audience = "invalid audience (aud) claim: audience claim does not match any expected audience"
    expired = "invalid expiration time (exp) claim: token is expired"
    early = "invalid not before (nbf) claim: token not yet valid"
    assert [
        refused(jwt(key, exp=now - 600)),
        refused(jwt(key, without=["exp"], iat=now - 4000)),
        refused(jwt(key, nbf=now + 600)),
        refused(jwt(key, iat=now + 600)),
        refused(jwt(key, without=["iat"])),
        refused(jwt(key, without=["iat", "exp"])),
        refused(jwt(key, aud="other")),
        refused(jwt(key, without=["aud"])),
        refused(jwt(key), "strict"),
    ] == [
        (400, [f"error validating token: {why}"])
        for why in (
            expired, expired, early, early, early, times, audience, audience,
            "invalid subject (sub) claim",
        )
    ]  # fmt: skip
    claims = "error validating claims: claim"
    assert [
        refused(jwt(key, project="other")),
        refused(jwt(key, without=["project"])),
        refused(jwt(key, without=["sub"])),
        refused(jwt(key), "open"),
    ] == [
        (400, [f'{claims} "project" does not match any associated bound claim values']),
        (400, [f'{claims} "project" is missing']),
        (400, ['claim "sub" not found in token']),
        (400, ["audience claim found in JWT but no audiences bound to the role"]),
    ]


def test_signatures(engine: DatabaseEngine, mount: str, key: RSAPrivateKey) -> None:
    good = jwt(key).reveal()
    assert [
        refusal(login(engine.admin, mount, token))
        for token in (
            jwt(issuer_key()).reveal(),
            good.rpartition(".")[0] + "." + jwt(key, sub="job-2").reveal().rpartition(".")[2],
            jwt(key, alg="HS256").reveal(),
            jwt(key, alg="none").reveal(),
            "nonsense",
            "x.y.z",
        )
    ] == [
        (400, [f"error validating token: error verifying token signature: {why}"])
        for why in (
            *["no known key successfully validated the token signature"] * 4,
            "go-jose/go-jose: compact JWS format must have three parts",
            "illegal base64 data at input byte 0",
        )
    ]


def test_refusals(engine: DatabaseEngine, unique: Unique, mount: str, key: RSAPrivateKey) -> None:
    admin, token = engine.admin, jwt(key).reveal()
    admin.enable_auth("jwt", bare := unique("issuer"))
    ask = admin.request
    assert [
        refusal(login(admin, mount, token, "")),
        refusal(login(admin, mount, token, "nobody")),
        refusal(login(admin, mount, "")),
        refusal(ask("GET", f"{mount}/login", token=NO_TOKEN)),
        refusal(login(admin, f"auth/{bare}", token)),
        refusal(ask("POST", f"auth/{bare}/config", {"jwt_validation_pubkeys": ["x"]})),
        refusal(ask("POST", f"auth/{bare}/config", {})),
        refusal(ask("POST", f"{mount}/role/bad", {"role_type": "jwt", "user_claim": "sub"})),
        refusal(ask("POST", f"{mount}/role/bad", ROLE | {"user_claim": ""})),
    ] == [
        (400, ["missing role"]),
        (400, ['role "nobody" could not be found']),
        (400, ["missing token"]),
        (405, ["unsupported operation"]),
        (400, ["could not load configuration"]),
        (400, ["error parsing public key: data does not contain any valid public keys"]),
        (400, [said("no keys")]),
        (400, ["must have at least one bound constraint when creating/updating a role"]),
        (400, ["a user claim must be defined on the role"]),
    ]
