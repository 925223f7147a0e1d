"""Static roles: the password of a role that stays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from contract_shapes import DENIED, UNSUPPORTED, envelope, refusal, shape
from psycopg import sql

from ephemeral_creds.testing import DatabaseEngine, VaultEmulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import PostgresServer, VaultServer

    Unique = Callable[[str], str]


@pytest.fixture
def username(any_engine: DatabaseEngine, unique: Unique) -> str:
    return another_user(any_engine, unique)


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
    assert 0 <= first.data["ttl"] <= 60
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


def test_a_schedule(any_engine: DatabaseEngine, unique: Unique, username: str) -> None:
    ask, role = any_engine.admin.request, unique("static")
    body = {"db_name": any_engine.connection, "username": username}
    body |= {"rotation_schedule": "0 0 * * SAT", "rotation_window": "1h"}
    assert ask("POST", f"{any_engine.mount}/static-roles/{role}", body).status == 204
    answer = ask("GET", f"{any_engine.mount}/static-creds/{role}")
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
    any_engine.login(answer.data).close()
    path = any_engine.create_static_role(
        unique("static"), another_user(any_engine, unique), rotation_schedule="0 0 1 1 *"
    )
    assert "rotation_window" not in ask("GET", path).data


@pytest.mark.parametrize(
    "schedule",
    [
        "0 0 * * SAT", "30 4 1,15 * 5", "0 22 * * 1-5", "15 10 29 2 *", "*/7 */5 * JAN-MAR,dec MON",
        "5/20 3 31 * *", "0 0 13 * fri", "10-30/10 23 */2 * *", "0 12 * 6 */3",
        "TZ=Asia/Tokyo 0 5 * * *", "CRON_TZ=America/New_York 0 5 * * 2", "0 4 ? * MON", "0 4 1 * ?",
    ],
)  # fmt: skip
def test_both_count_to_the_same_instant(
    real_vault: VaultServer,
    shared_emulator: VaultEmulator,
    postgres: PostgresServer,
    unique: Unique,
    schedule: str,
) -> None:
    earliest, latest = [], []
    for vault in (real_vault, shared_emulator):
        engine = DatabaseEngine(vault, postgres)
        path = engine.create_static_role(
            unique("static"), another_user(engine, unique), rotation_schedule=schedule
        )
        before = time.time()
        ttl = engine.admin.call("GET", path).data["ttl"]
        earliest.append(before + ttl)
        latest.append(time.time() + ttl + 1)
    assert max(earliest) <= min(latest) + 1


def test_refused_rotations(any_engine: DatabaseEngine, unique: Unique, username: str) -> None:
    def refused(**rotation: object) -> tuple[int, list[str]]:
        body = {"db_name": any_engine.connection, "username": username} | rotation
        path = f"{any_engine.mount}/static-roles/{unique('static')}"
        return refusal(any_engine.admin.request("POST", path, body))

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


def test_the_emulator_keeps_to_a_schedule(postgres: PostgresServer, unique: Unique) -> None:
    ahead = 0.0
    with VaultEmulator(clock=lambda: time.time() + ahead) as vault:
        engine = DatabaseEngine(vault, postgres)
        path = engine.create_static_role(
            unique("static"), another_user(engine, unique), rotation_schedule="0 0 * * SAT"
        )
        first = engine.admin.call("GET", path).data
        ahead = first["ttl"] - 60
        vault.tick()
        assert engine.admin.call("GET", path).data["password"] == first["password"]
        ahead = first["ttl"] + 2
        vault.tick()
        second = engine.admin.call("GET", path).data
    assert second["password"] != first["password"]
    assert second["ttl"] == pytest.approx(7 * 86400, abs=100)


def another_user(engine: DatabaseEngine, unique: Unique) -> str:
    name = unique("static_user")
    with engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    return name
