"""What a check asks: health, capabilities, and how a role and its connection are defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contract_shapes import DENIED, envelope, refusal, shape

from differences import extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, VaultServer

    Unique = Callable[[str], str]

HEALTH_CODES = (
    "activecode=200&standbycode=200&drsecondarycode=200&performancestandbycode=200"
    "&sealedcode=200&uninitcode=200"
)


def test_health_in_a_status_of_ones_choice(vault: VaultServer, engine: DatabaseEngine) -> None:
    ask = engine.admin.request
    health = ask("GET", f"sys/health?{HEALTH_CODES}")
    assert health.status == 200
    assert {"initialized", "sealed", "standby", "version", *extra("health")} < set(health.body)
    assert isinstance(health.body["server_time_utc"], int)
    vault.seal()
    try:
        sealed = ask("GET", f"sys/health?{HEALTH_CODES}")
        assert (sealed.status, sealed.body["sealed"]) == (200, True)
    finally:
        vault.unseal()


def test_capabilities_of_a_token(engine: DatabaseEngine, unique: Unique) -> None:
    admin = engine.admin
    rules = {"a/b": ["update", "read"], "a/+": ["list"], "c": ["read", "deny"]}
    token = admin.create_token([admin.write_policy(unique("capable"), rules)])
    paths = ["a/b", "a/c", "c", "z", "sys/leases/renew", "sys/leases/revoke"]
    answer = admin.request("POST", "sys/capabilities-self", {"paths": paths}, token=token)
    expected = {
        "a/b": ["read", "update"], "a/c": ["list"], "c": ["deny"], "z": ["deny"],
        "sys/leases/renew": ["update"], "sys/leases/revoke": ["deny"],
    }  # fmt: skip
    assert answer.data == expected
    assert {path: answer.body[path] for path in paths} == expected
    root = admin.request("POST", "sys/capabilities-self", {"paths": ["a/b"]})
    assert root.data == {"a/b": ["root"], "capabilities": ["root"]}
    empty = admin.request("POST", "sys/capabilities-self", {}, token=token)
    assert refusal(empty) == (400, ["paths must be supplied"])
    bare = admin.create_token([unique("bare")], no_default_policy=True)
    denied = admin.request("POST", "sys/capabilities-self", {"paths": ["a/b"]}, token=bare)
    assert refusal(denied) == (403, [DENIED])


def test_a_connection_is_shown_without_its_password(engine: DatabaseEngine) -> None:
    shown = engine.admin.request("GET", f"database/config/{engine.connection}")
    assert shown.data["allowed_roles"] == ["*"]
    assert shape(shown.body) == envelope(
        {
            "allowed_roles": ["str"],
            "connection_details": {"connection_url": "str", "username": "str"},
            "password_policy": "str",
            "plugin_name": "str",
            "plugin_version": "str",
            "root_credentials_rotate_statements": [],
        }
        | extra("connection")
    )
    assert refusal(engine.admin.request("GET", "database/config/nowhere")) == (404, [])
    assert refusal(engine.admin.request("GET", "database/roles/nobody")) == (404, [])


def test_writing_a_connection_keeps_the_fields_that_are_not_given(
    engine: DatabaseEngine, unique: Unique
) -> None:
    admin, path = engine.admin, f"database/config/{unique('partial')}"
    known = admin.call("GET", f"database/config/{engine.connection}").data
    postgres = engine.postgres
    admin.call(
        "POST",
        path,
        {
            "plugin_name": known["plugin_name"],
            "allowed_roles": "one",
            "connection_url": known["connection_details"]["connection_url"],
            "username": postgres.superuser,
            "password": postgres.password.reveal(),
        },
    )
    admin.call("POST", path, {"allowed_roles": "two,three"})
    shown = admin.call("GET", path).data
    assert shown["allowed_roles"] == ["two", "three"]
    assert shown["connection_details"] == known["connection_details"]
