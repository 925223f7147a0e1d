"""Static roles: the password of a role that stays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from contract_shapes import DENIED, UNSUPPORTED, envelope, refusal, shape
from psycopg import sql

from differences import extra, needs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine

    Unique = Callable[[str], str]


@pytest.fixture
def username(engine: DatabaseEngine, unique: Unique) -> str:
    return another_user(engine, unique)


@pytest.mark.parametrize(
    ("rotation", "key", "value"),
    [
        ({"rotation_period": 3600}, "rotation_period", 3600),
        pytest.param(
            {"rotation_schedule": "0 0 * * 6"},
            "rotation_schedule",
            "0 0 * * 6",
            marks=needs("schedule"),
        ),
    ],
    ids=["period", "schedule"],
)
def test_a_definition(
    engine: DatabaseEngine,
    unique: Unique,
    username: str,
    rotation: dict[str, Any],
    key: str,
    value: object,
) -> None:
    engine.create_static_role(role := unique("static"), username, **rotation)
    answer = engine.admin.request("GET", f"database/static-roles/{role}")
    assert answer.status == 200
    assert shape(answer.body) == envelope(
        {
            "credential_type": "str",
            "db_name": "str",
            "last_vault_rotation": "str",
            key: type(value).__name__,
            "rotation_statements": [],
            "username": "str",
        }
        | extra("static role")
    )
    assert answer.data["username"] == username
    assert answer.data["db_name"] == engine.connection
    assert answer.data[key] == value


def test_a_definition_of_nothing(engine: DatabaseEngine) -> None:
    answer = engine.admin.request("GET", "database/static-roles/nobody")
    assert (answer.status, answer.body) == (404, {"errors": []})


def test_a_read_changes_nothing_and_a_rotation_the_password(
    engine: DatabaseEngine, unique: Unique, username: str
) -> None:
    path = engine.create_static_role(role := unique("static"), username, rotation_period=60)
    ask = engine.admin.request
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
    assert 0 <= first.data["ttl"] <= 60
    assert ask("GET", path).data["password"] == first.data["password"]
    with engine.login(first.data) as conn:
        engine.rotate_static_role(role)
        second = ask("GET", path)
        assert second.data["password"] != first.data["password"]
        assert second.data["username"] == username
        # A live session survives it.
        assert conn.execute("SELECT current_user").fetchone() == (username,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        engine.login(first.data)
    engine.login(second.data).close()
    assert engine.vault.mints(path) == 0


def test_refusals(engine: DatabaseEngine, unique: Unique, username: str) -> None:
    path = engine.create_static_role(unique("static"), username)
    stranger = engine.admin.create_token()
    ask = engine.admin.request
    mount = engine.mount
    assert [
        refusal(ask("GET", f"{mount}/static-creds/unknown")),
        refusal(ask("GET", path, token=stranger)),
        refusal(ask("POST", path)),
    ] == [
        (400, ["unknown role: unknown"]),
        (403, [DENIED]),
        (405, [UNSUPPORTED]),
    ]


@needs("schedule")
def test_a_schedule(engine: DatabaseEngine, unique: Unique, username: str) -> None:
    ask, role = engine.admin.request, unique("static")
    body = {"db_name": engine.connection, "username": username}
    body |= {"rotation_schedule": "0 0 * * SAT", "rotation_window": "1h"}
    assert ask("POST", f"{engine.mount}/static-roles/{role}", body).status == 204
    answer = ask("GET", f"{engine.mount}/static-creds/{role}")
    assert answer.status == 200
    assert shape(answer.body) == envelope(
        {
            "last_vault_rotation": "str",
            "password": "str",
            "rotation_schedule": "str",
            "rotation_window": "int",
            "ttl": "int",
            "username": "str",
        }
    )
    assert answer.data["rotation_schedule"] == "0 0 * * SAT"
    assert answer.data["rotation_window"] == 3600
    engine.login(answer.data).close()
    path = engine.create_static_role(
        unique("static"), another_user(engine, unique), rotation_schedule="0 0 1 1 *"
    )
    assert "rotation_window" not in ask("GET", path).data


@needs("schedule")
def test_a_schedule_is_in_utc_whatever_stands_before_it(
    engine: DatabaseEngine, unique: Unique, username: str
) -> None:
    schedule = "TZ=Asia/Tokyo 0 5 * * *"
    path = engine.create_static_role(unique("static"), username, rotation_schedule=schedule)
    before = time.time()
    due_at = before + engine.admin.call("GET", path).data["ttl"]
    late = time.time() - before + 1
    at_five = 5 * 3600
    assert at_five - late <= due_at % 86400 <= at_five + late


@needs("schedule")
def test_refused_rotations(engine: DatabaseEngine, unique: Unique, username: str) -> None:
    def refused(**rotation: object) -> tuple[int, list[str]]:
        body = {"db_name": engine.connection, "username": username} | rotation
        path = f"{engine.mount}/static-roles/{unique('static')}"
        return refusal(engine.admin.request("POST", path, body))

    weekly = "0 0 * * SAT"
    noise = "%!(EXTRA string=error, *errors.errorString="
    unparsed = f"could not parse rotation_schedule{noise}"
    unread = f"{unparsed}expected exactly 5 fields, found"
    needed = "must be provided to create a static account"
    both = "mutually exclusive fields rotation_period and rotation_schedule were both specified"
    assert [
        refused(),
        refused(rotation_period=60, rotation_schedule=weekly),
        refused(rotation_period=60, rotation_window=3600),
        refused(rotation_period=1),
        refused(rotation_schedule="nonsense"),
        refused(rotation_schedule="0 * * * * *"),
        refused(rotation_schedule="@daily"),
        refused(rotation_schedule="TZ=UTC @every 1h"),
        refused(rotation_schedule="TZ=Nowhere/X 0 0 * * *"),
        refused(rotation_schedule=weekly, rotation_window=60),
    ] == [
        (400, [why])
        for why in (
            f"one of rotation_schedule or rotation_period {needed}",
            f"{both}; only one of them can be provided",
            "rotation_window is invalid with use of rotation_period",
            "rotation_period must be 5 seconds or more",
            f"{unread} 1: [nonsense])",
            f"{unread} 6: [0 * * * * *])",
            f"{unparsed}parser does not accept descriptors: @daily)",
            f"{unparsed}parser does not accept descriptors: @every 1h)",
            f"{unparsed}provided bad location Nowhere/X: unknown time zone Nowhere/X)",
            f"rotation_window is invalid{noise}rotation_window must be 3600 seconds or more)",
        )
    ]
    for wrong in ("60 * * * *", "* * 0 * *", "* * * * 7", "*/0 * * * *", "x * * * *"):
        assert refused(rotation_schedule=wrong)[0] == 400


def another_user(engine: DatabaseEngine, unique: Unique) -> str:
    name = unique("static_user")
    with engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    return name
