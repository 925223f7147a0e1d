"""Reading credentials: what Vault and OpenBao answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from contract_shapes import BAD_TOKEN, DENIED, UNSUPPORTED, envelope, refusal, shape

from ephemeral_creds import Secret
from ephemeral_creds.testing import DatabaseEngine, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable

    Unique = Callable[[str], str]


def test_a_read_creates_a_role_that_can_log_in(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("mint")
    path = engine.create_role(role, default_ttl=60, max_ttl=120)
    before = time.time()
    answer = engine.read(role)
    after = time.time()
    assert answer.status == 200
    assert shape(answer.body) == envelope({"username": "str", "password": "str"})
    assert answer.body["lease_id"].startswith(f"{path}/")
    assert answer.body["renewable"] is True
    assert answer.body["lease_duration"] == 60
    name = answer.data["username"]
    assert name.startswith(f"v-token-{role[:8]}-")
    assert len(answer.data["password"]) == 20
    with engine.login(answer.data) as conn:
        row = conn.execute(
            "SELECT current_user, extract(epoch FROM rolvaliduntil)::float "
            "FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row is not None
    # Five seconds more than the lease: Vault's margin for clocks that differ. Whole ones are told.
    assert (row[0], before + 64 <= row[1] <= after + 66) == (name, True)
    assert engine.mints(role) == 1


def test_every_read_is_a_mint(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("mints")
    engine.create_role(role)
    engine.create_role(f"{role}0")
    names = {engine.read(role).data["username"] for _ in range(3)}
    engine.read(f"{role}0")
    assert len(names) == 3
    assert (engine.mints(role), engine.mints(f"{role}0")) == (3, 1)
    assert len(engine.leases(role)) == 3


def test_a_default_above_the_maximum_is_capped(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("cap")
    engine.create_role(role, default_ttl=0, max_ttl=30)
    assert engine.read(role).body["lease_duration"] == 30


def test_grants_and_quotes(engine: DatabaseEngine, unique: Unique) -> None:
    role, table = unique("grant"), unique("t")
    with engine.postgres.admin() as conn:
        conn.execute(f"CREATE TABLE {table} (n int)".encode())
    engine.create_role(role, grants=[f'GRANT SELECT ON {table} TO "{{{{name}}}}";'])
    answer = engine.read(role)
    with engine.login(answer.data) as conn:
        conn.execute(f"SELECT * FROM {table}".encode())
        engine.admin.revoke_lease(answer.body["lease_id"])
        # A live session survives its role, and shows it so.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(f"SELECT * FROM {table}".encode())
        with pytest.raises(psycopg.errors.UndefinedObject):
            conn.execute("SELECT current_user")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        engine.login(answer.data)


def test_refusals(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("refuse")
    path = engine.create_role(role)
    admin = engine.admin
    stranger = admin.create_token()
    nobody = Secret("hvs.nothing-that-was-ever-issued")
    ask = admin.request
    no_route = 'no handler for route "nowhere/creds/x". route entry not found.'
    assert [
        refusal(engine.read("unknown")),
        refusal(engine.read(role, token=stranger)),
        refusal(engine.read("unknown", token=stranger)),
        refusal(engine.read(role, token=nobody)),
        refusal(engine.read(role, token=Secret(""))),
        refusal(ask("GET", "nowhere/creds/x")),
        refusal(ask("GET", "nowhere/creds/x", token=stranger)),
        refusal(ask("POST", path)),
        refusal(ask("DELETE", path)),
        refusal(ask("GET", f"{engine.mount}/nothing")),
    ] == [
        (400, ["unknown role: unknown"]),
        (403, [DENIED]),
        (403, [DENIED]),
        (403, [BAD_TOKEN]),
        (403, ["permission denied"]),
        (404, [no_route]),
        (403, [DENIED]),
        (405, [UNSUPPORTED]),
        (405, [UNSUPPORTED]),
        (404, ["1 error occurred:\n\t* unsupported path\n\n"]),
    ]
    assert engine.mints(role) == 0


def test_statements_that_fail(engine: DatabaseEngine, unique: Unique) -> None:
    role = unique("bad")
    engine.create_role(role, creation_statements=["CREATE NONSENSE"])
    status, [text] = refusal(engine.read(role))
    assert status == 500
    assert "syntax error" in text
    assert engine.leases(role) == []


@pytest.mark.slow
def test_postgresql_away(
    engine: DatabaseEngine, own_postgres: PostgresServer, unique: Unique
) -> None:
    mount = unique("away")
    engine = DatabaseEngine(engine.vault, own_postgres, mount=mount)
    engine.create_role("app")
    lease_id = engine.read("app").body["lease_id"]
    own_postgres.stop()
    ask = engine.admin.request
    answers = [
        refusal(engine.read("app")),
        refusal(ask("PUT", "sys/leases/renew", {"lease_id": lease_id})),
        refusal(ask("PUT", "sys/leases/revoke", {"lease_id": lease_id})),
    ]
    expected = [(500, ""), (400, "failed to renew entry: "), (400, "failed to revoke entry: ")]
    for (status, [text]), (wanted, start) in zip(answers, expected, strict=True):
        assert (status, text[: len(start)]) == (wanted, start)
        assert "failed to connect to" in text
    own_postgres.start()
    assert ask("PUT", "sys/leases/renew", {"lease_id": lease_id}).status == 200
    assert ask("PUT", "sys/leases/revoke", {"lease_id": lease_id}).status == 204
    assert own_postgres.roles() == []
