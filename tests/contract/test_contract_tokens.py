"""The life of tokens, and what dies with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_shapes import (
    AUTH,
    BAD_TOKEN,
    DENIED,
    TOKEN_DATA,
    capped,
    early_in_a_second,
    envelope,
    eventually,
    refusal,
    shape,
)

from ephemeral_creds import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, VaultResponse

    Unique = Callable[[str], str]

UNKNOWN = Secret("hvs.nothing-that-was-ever-issued")


def look(engine: DatabaseEngine, token: Secret) -> VaultResponse:
    return engine.admin.request("GET", "auth/token/lookup-self", token=token)


def renew(engine: DatabaseEngine, token: Secret, increment: object = None) -> VaultResponse:
    body = {} if increment is None else {"increment": increment}
    return engine.admin.request("PUT", "auth/token/renew-self", body, token=token)


def revoke(engine: DatabaseEngine, token: Secret) -> VaultResponse:
    return engine.admin.request("PUT", "auth/token/revoke-self", token=token)


def gone(engine: DatabaseEngine, minted: VaultResponse) -> bool:
    return eventually(lambda: minted.data["username"] not in engine.postgres.roles())


def test_lookup_self(engine: DatabaseEngine) -> None:
    token = engine.admin.create_token(["some-policy"], ttl=60)
    answer = look(engine, token)
    assert (answer.status, shape(answer.body)) == (200, envelope(TOKEN_DATA))
    data = answer.data
    assert 30 < data.pop("ttl") <= 60
    for name in ("accessor", "creation_time", "entity_id", "expire_time", "id", "issue_time"):
        data.pop(name)
    assert data == {
        "creation_ttl": 60,
        "display_name": "token",
        "explicit_max_ttl": 0,
        "meta": None,
        "num_uses": 0,
        "orphan": True,
        "path": "auth/token/create-orphan",
        "policies": ["default", "some-policy"],
        "renewable": True,
        "type": "service",
    }
    assert refusal(look(engine, UNKNOWN)) == (403, [BAD_TOKEN])
    root = look(engine, engine.vault.root_token)
    assert (root.data["ttl"], root.data["expire_time"]) == (0, None)
    assert (root.data["policies"], root.data["renewable"]) == (["root"], False)


def test_lookup_by_another(engine: DatabaseEngine) -> None:
    admin = engine.admin
    token = admin.create_token(ttl=60)
    answer = admin.request("POST", "auth/token/lookup", {"token": token.reveal()})
    assert (answer.status, shape(answer.body)) == (200, envelope(TOKEN_DATA))
    answer = admin.request("POST", "auth/token/lookup", {"token": "unknown"})
    assert refusal(answer) == (403, ["bad token"])
    answer = admin.request("POST", "auth/token/lookup", {"token": "x"}, token=token)
    assert refusal(answer) == (403, [DENIED])


def test_renew_self(engine: DatabaseEngine) -> None:
    since = early_in_a_second()
    token = engine.admin.create_token(ttl=60, explicit_max_ttl=90)
    plain = renew(engine, token)
    assert (plain.status, shape(plain.body)) == (200, envelope(auth=AUTH))
    assert plain.body["auth"]["lease_duration"] == 60
    assert renew(engine, token, 30).body["auth"]["lease_duration"] == 30
    # Without a wish it is given what it was given last, not what it had at first.
    assert renew(engine, token).body["auth"]["lease_duration"] == 30
    most = renew(engine, token, "2h").body
    left = most["auth"]["lease_duration"]
    assert most["warnings"] == capped(left, wish="2h", maximum=90, since=since)
    renewed = TOKEN_DATA | {"last_renewal": "str", "last_renewal_time": "int"}
    assert shape(look(engine, token).data) == renewed


def test_renew_self_refusals(engine: DatabaseEngine) -> None:
    admin = engine.admin
    assert [
        refusal(renew(engine, admin.create_token(ttl=60, renewable=False))),
        refusal(renew(engine, admin.create_token(ttl=60, type="batch"))),
        refusal(renew(engine, admin.create_token(no_default_policy=True, ttl=60))),
        refusal(renew(engine, UNKNOWN)),
    ] == [
        (400, ["lease is not renewable"]),
        (400, ["batch tokens cannot be renewed"]),
        (403, [DENIED]),
        (403, [BAD_TOKEN]),
    ]


def test_a_periodic_token(engine: DatabaseEngine) -> None:
    token = engine.admin.create_token(period=60)
    answer = renew(engine, token, 5000)
    assert answer.body["auth"]["lease_duration"] == 60
    data = look(engine, token).data
    assert shape(data) == TOKEN_DATA | {
        "period": "int",
        "last_renewal": "str",
        "last_renewal_time": "int",
    }


def test_revoking_a_token_takes_its_leases_along(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("tokrev"))
    token = engine.admin.create_token([engine.policy(role)])
    minted = engine.read(role, token=token)
    answer = revoke(engine, token)
    assert (answer.status, answer.body) == (204, {})
    assert refusal(look(engine, token)) == (403, [BAD_TOKEN])
    assert gone(engine, minted)
    assert eventually(lambda: engine.leases(role) == [])


@pytest.mark.slow
def test_expiry_of_a_token_takes_its_leases_along(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("tokexp"), default_ttl=600)
    token = engine.admin.create_token([engine.policy(role)], ttl=60)
    minted = engine.read(role, token=token)
    assert minted.body["lease_duration"] == 600, "the answer does not know of the token's end"
    # Renewing it by another token does not change whose it is.
    renewed = engine.admin.request("PUT", "sys/leases/renew", {"lease_id": minted.body["lease_id"]})
    assert renewed.status == 200
    assert renew(engine, token, 1).body["auth"]["lease_duration"] == 1
    assert gone(engine, minted)
    assert refusal(look(engine, token)) == (403, [BAD_TOKEN])


def test_children_die_with_their_parent_but_orphans_do_not(
    engine: DatabaseEngine, unique: Unique
) -> None:
    admin = engine.admin
    engine.create_role(role := unique("child"))
    policy = engine.policy(role)
    rules = {"auth/token/create": ["update"], "auth/token/create-orphan": ["update", "sudo"]}
    maker = admin.write_policy(unique("maker"), rules)
    parent = admin.create_token([policy, maker])
    child = admin.create_token([policy], parent=parent, orphan=False)
    orphan = admin.create_token([policy], parent=parent)
    minted = engine.read(role, token=child)
    assert look(engine, child).data["orphan"] is False
    revoke(engine, parent)
    assert refusal(look(engine, child)) == (403, [BAD_TOKEN])
    assert look(engine, orphan).status == 200
    assert gone(engine, minted)


def test_a_child_may_do_no_more_than_its_parent(engine: DatabaseEngine, unique: Unique) -> None:
    admin = engine.admin
    maker = admin.write_policy(unique("maker"), {"auth/token/create": ["update"]})
    parent = admin.create_token([maker])
    answer = admin.request("POST", "auth/token/create", {"policies": ["other"]}, token=parent)
    assert refusal(answer) == (400, ["child policies must be subset of parent"])


def test_a_token_of_two_uses(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("uses"))
    token = engine.admin.create_token([engine.policy(role)], num_uses=2)
    minted = engine.read(role, token=token)
    assert minted.status == 200
    assert refusal(engine.read(role, token=token)) == (
        400,
        [
            (
                "Secret cannot be returned; token had one use left, so leased credentials were "
                "immediately revoked."
            )
        ],
    )
    assert refusal(engine.read(role, token=token)) == (403, [BAD_TOKEN])
    assert gone(engine, minted)
    assert eventually(lambda: engine.leases(role) == [])
    assert engine.mints(role) == 1


def test_looking_costs_a_use(engine: DatabaseEngine) -> None:
    token = engine.admin.create_token(num_uses=3)
    assert [look(engine, token).data["num_uses"] for _ in range(2)] == [2, 1]


def test_a_batch_token_caps_its_leases(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("batch"), default_ttl=600)
    admin = engine.admin
    token = admin.create_token([engine.policy(role)], ttl=60, type="batch")
    minted = engine.read(role, token=token)
    body = {"lease_id": minted.body["lease_id"]}
    renewed = admin.request("PUT", "sys/leases/renew", body)
    looked = admin.request("PUT", "sys/leases/lookup", body)
    assert look(engine, token).data["type"] == "batch"
    assert 30 < minted.body["lease_duration"] <= 60
    assert minted.body["renewable"] is True
    assert 30 < renewed.body["lease_duration"] <= 60
    assert looked.data["renewable"] is True
    assert refusal(revoke(engine, token)) == (400, ["batch tokens cannot be revoked"])
    admin.revoke_lease(minted.body["lease_id"])


@pytest.mark.slow
def test_the_end_of_a_token(engine: DatabaseEngine) -> None:
    token = engine.admin.create_token(ttl=60, explicit_max_ttl=60)
    assert renew(engine, token, 1).body["auth"]["lease_duration"] == 1
    assert eventually(lambda: look(engine, token).status == 403)
    assert refusal(renew(engine, token)) == (403, [BAD_TOKEN])
