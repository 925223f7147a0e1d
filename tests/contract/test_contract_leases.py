"""Renewing, revoking and outliving leases: what Vault and OpenBao do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import (
    DENIED,
    LEASE_DATA,
    UNSUPPORTED,
    capped,
    early_in_a_second,
    envelope,
    eventually,
    refusal,
    shape,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, VaultResponse

    Unique = Callable[[str], str]

RENEW, REVOKE, LOOKUP = "sys/leases/renew", "sys/leases/revoke", "sys/leases/lookup"


def put(engine: DatabaseEngine, path: str, **body: object) -> VaultResponse:
    return engine.admin.request("PUT", path, body)


def test_lookup_and_list(engine: DatabaseEngine, unique: Unique) -> None:
    path = engine.create_role(role := unique("look"), default_ttl=60)
    lease_id = engine.read(role).body["lease_id"]
    looked = put(engine, LOOKUP, lease_id=lease_id)
    assert (looked.status, shape(looked.body)) == (200, envelope(LEASE_DATA))
    assert (looked.data["id"], looked.data["renewable"]) == (lease_id, True)
    assert 30 < looked.data["ttl"] <= 60
    listed = engine.admin.request("LIST", f"{LOOKUP}/{path}")
    assert (listed.status, shape(listed.body)) == (200, envelope({"keys": ["str"]}))
    assert engine.leases(role) == [lease_id]
    put(engine, RENEW, lease_id=lease_id)
    data = put(engine, LOOKUP, lease_id=lease_id).data
    assert shape(data) == LEASE_DATA | {"last_renewal": "str"}
    assert [
        refusal(put(engine, LOOKUP, lease_id="unknown")),
        refusal(put(engine, LOOKUP)),
        refusal(engine.admin.request("LIST", f"{LOOKUP}/{path}x")),
    ] == [(400, ["invalid lease"]), (400, ["lease_id must be specified"]), (404, [])]


def test_renew_takes_the_increment_for_a_wish(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("renew"), default_ttl=60, max_ttl=100)
    since = early_in_a_second()
    lease_id = engine.read(role).body["lease_id"]
    seen = []
    for increment in (30, 0, None, "40s", 99999):
        answer = put(engine, RENEW, lease_id=lease_id, increment=increment)
        assert answer.status == 200
        assert (answer.body["lease_id"], answer.body["renewable"]) == (lease_id, True)
        warned = ["str"] if answer.body["warnings"] else None
        assert shape(answer.body) == envelope(warnings=warned)
        seen.append((answer.body["lease_duration"], answer.body["warnings"]))
    *wishes, (left, warnings) = seen
    assert wishes == [(30, None), (60, None), (60, None), (40, None)]
    assert warnings == capped(left, wish="27h46m39s", maximum=100, since=since)


def test_renew_moves_the_last_login_date(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("until"), default_ttl=60, max_ttl=100)
    answer = engine.read(role)
    put(engine, RENEW, lease_id=answer.body["lease_id"], increment=20)
    with engine.postgres.admin() as conn:
        row = conn.execute(
            "SELECT extract(epoch FROM rolvaliduntil - now())::float "
            "FROM pg_roles WHERE rolname = %s",
            [answer.data["username"]],
        ).fetchone()
    assert row is not None
    # Not the minute that it had at first.
    assert 0 < row[0] <= 26


def test_renew_refusals(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("rerefuse"))
    lease_id = engine.read(role).body["lease_id"]
    negative = (
        'Field validation failed: error converting input for field "increment": '
        "cannot provide negative value '-3'"
    )
    assert [
        refusal(put(engine, RENEW)),
        refusal(put(engine, RENEW, lease_id="unknown")),
        refusal(put(engine, RENEW, lease_id=lease_id, increment=-3)),
        refusal(engine.admin.request("GET", RENEW)),
    ] == [
        (400, ["lease_id must be specified"]),
        (400, ["lease not found"]),
        (400, [negative]),
        (405, [UNSUPPORTED]),
    ]
    engine.delete_role(role)
    status, [text] = refusal(put(engine, RENEW, lease_id=lease_id))
    assert status == 400
    assert text.startswith("failed to renew entry: ")
    assert f'could not find role with name "{role}"' in text


@pytest.mark.slow
def test_the_end_of_a_lease(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("end"), default_ttl=12, max_ttl=12)
    since = early_in_a_second()
    minted = engine.read(role)
    lease_id = minted.body["lease_id"]
    time.sleep(1.1)
    answer = put(engine, RENEW, lease_id=lease_id, increment=6)
    assert (answer.status, answer.body["lease_duration"]) == (200, 6)
    answer = put(engine, RENEW, lease_id=lease_id, increment=12)
    left = answer.body["lease_duration"]
    assert (answer.status, left < 12) == (200, True)
    assert answer.body["warnings"] == capped(left, wish="12s", maximum=12, since=since)
    assert eventually(lambda: minted.data["username"] not in engine.postgres.roles())
    assert time.monotonic() - since > 11.8
    assert eventually(lambda: engine.leases(role) == [])
    assert refusal(put(engine, RENEW, lease_id=lease_id)) == (400, ["lease not found"])


def test_revoke(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("revoke"))
    minted = engine.read(role)
    lease_id, name = minted.body["lease_id"], minted.data["username"]
    first = put(engine, REVOKE, lease_id=lease_id)
    assert (first.status, first.body) == (204, {})
    assert name not in engine.postgres.roles()
    assert refusal(put(engine, RENEW, lease_id=lease_id)) == (400, ["lease not found"])
    again = [
        put(engine, REVOKE, lease_id=lease_id).status,
        put(engine, REVOKE, lease_id=lease_id, sync=True).status,
        put(engine, REVOKE, lease_id="unknown").status,
    ]
    assert again == [204, 204, 204]
    assert refusal(put(engine, REVOKE)) == (400, ["lease_id must be specified"])


def test_revoke_without_waiting(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("async"))
    minted = engine.read(role)
    answer = put(engine, REVOKE, lease_id=minted.body["lease_id"], sync=False)
    assert (answer.status, answer.body) == (202, {})
    assert eventually(lambda: minted.data["username"] not in engine.postgres.roles())


def test_revoke_needs_a_policy(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("policy"))
    admin = engine.admin
    plain = admin.create_token([engine.policy(role, may_revoke=False)])
    lease_id = engine.read(role, token=plain).body["lease_id"]
    body = {"lease_id": lease_id}
    assert admin.request("PUT", RENEW, body, token=plain).status == 200
    assert admin.request("PUT", LOOKUP, body, token=plain).status == 200
    assert refusal(admin.request("PUT", REVOKE, body, token=plain)) == (403, [DENIED])
    allowed = admin.create_token([engine.policy(role)])
    assert admin.request("PUT", REVOKE, body, token=allowed).status == 204


def test_renewing_needs_the_default_policy(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("default"))
    policy = engine.policy(role)
    admin = engine.admin
    bare = admin.create_token([policy], no_default_policy=True)
    body = {"lease_id": engine.read(role, token=bare).body["lease_id"]}
    assert refusal(admin.request("PUT", RENEW, body, token=bare)) == (403, [DENIED])


def test_revoke_by_prefix(engine: DatabaseEngine, unique: Unique) -> None:
    path = engine.create_role(role := unique("prefix"))
    names = {engine.read(role).data["username"] for _ in range(2)}
    engine.admin.revoke_prefix(path)
    assert not names & set(engine.postgres.roles())
    assert engine.leases(role) == []


def test_a_role_that_owns_something_cannot_be_dropped(
    engine: DatabaseEngine, unique: Unique
) -> None:
    role, table = unique("owner"), unique("owned")
    grant = 'GRANT CREATE ON SCHEMA public TO "{{name}}";'
    engine.create_role(role, grants=[grant])
    minted = engine.read(role)
    with engine.login(minted.data) as conn:
        conn.execute(f"CREATE TABLE {table} ()".encode())
    lease_id = minted.body["lease_id"]
    status, [text] = refusal(put(engine, REVOKE, lease_id=lease_id))
    assert status == 400
    assert text.startswith("failed to revoke entry: ")
    assert engine.leases(role) == [lease_id]
    with engine.postgres.admin() as conn:
        conn.execute(f"DROP TABLE {table}".encode())
        # Vault takes USAGE on the schema away, but not what else was granted on it.
        name = minted.data["username"]
        conn.execute(f'REVOKE CREATE ON SCHEMA public FROM "{name}"'.encode())
    assert put(engine, REVOKE, lease_id=lease_id).status == 204


def test_custom_revocation(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("custom")
    statement = 'ALTER ROLE "{{name}}" NOLOGIN;'
    engine.create_role(role, revocation_statements=[statement])
    minted = engine.read(role)
    engine.admin.revoke_lease(minted.body["lease_id"])
    assert minted.data["username"] in engine.postgres.roles()


def test_revocation_is_by_the_statements_of_now(engine: DatabaseEngine, unique: Unique) -> None:
    """Correcting the statements of a role is enough: leases that were made before end rightly."""
    role = unique("corrected")
    engine.create_role(role, revocation_statements=["NONSENSE"])
    minted = engine.read(role)
    lease_id = minted.body["lease_id"]
    assert put(engine, REVOKE, lease_id=lease_id, sync=True).status == 400
    engine.create_role(role, revocation_statements=['DROP ROLE "{{name}}"'])
    assert put(engine, REVOKE, lease_id=lease_id, sync=True).status == 204
    assert minted.data["username"] not in engine.postgres.roles()
