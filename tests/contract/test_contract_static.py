"""Static roles: the password of a role that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from contract_shapes import DENIED, UNSUPPORTED, envelope, refusal, shape
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine

    Unique = Callable[[str], str]


@pytest.fixture
def username(any_engine: DatabaseEngine, unique: Unique) -> str:
    name = unique("static_user")
    with any_engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    return name


def test_a_read_changes_nothing_and_a_rotation_the_password(
    any_engine: DatabaseEngine, unique: Unique, username: str
) -> None:
    path = any_engine.create_static_role(role := unique("static"), username, rotation_period=60)
    ask = any_engine.admin.request
    first = ask("GET", path)
    assert first.status == 200
    assert shape(first.body) == envelope(
        {
            "last_vault_rotation": "str",
            "password": "str",
            "rotation_period": "int",
            "ttl": "int",
            "username": "str",
        }
    )
    assert (first.body["lease_id"], first.body["lease_duration"]) == ("", 0)
    assert first.body["renewable"] is False
    assert first.data["rotation_period"] == 60
    assert 55 <= first.data["ttl"] <= 60
    assert ask("GET", path).data["password"] == first.data["password"]
    with any_engine.login(first.data) as conn:
        any_engine.rotate_static_role(role)
        second = ask("GET", path)
        assert second.data["password"] != first.data["password"]
        assert second.data["username"] == username
        # A live session survives it.
        assert conn.execute("SELECT current_user").fetchone() == (username,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        any_engine.login(first.data)
    any_engine.login(second.data).close()
    assert any_engine.vault.mints(path) == 0


def test_refusals(any_engine: DatabaseEngine, unique: Unique, username: str) -> None:
    path = any_engine.create_static_role(unique("static"), username)
    stranger = any_engine.admin.create_token()
    ask = any_engine.admin.request
    mount = any_engine.mount
    assert [
        refusal(ask("GET", f"{mount}/static-creds/unknown")),
        refusal(ask("GET", path, token=stranger)),
        refusal(ask("POST", path)),
    ] == [
        (400, ["unknown role: unknown"]),
        (403, [DENIED]),
        (405, [UNSUPPORTED]),
    ]
    status, _ = refusal(
        ask(
            "POST",
            f"{mount}/static-roles/{unique('static')}",
            {"db_name": "postgres", "username": username, "rotation_period": 1},
        )
    )
    assert status == 400
