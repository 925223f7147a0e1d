"""``ephemeral-creds check`` and the ways to Vault, and what it reads there of the role."""

from __future__ import annotations

import time
from threading import Timer
from typing import TYPE_CHECKING

import pytest
from agent_socket import agent_on_a_socket
from check_command import Checker

from certificates import Authority
from differences import needs
from ephemeral_creds import Secret
from ephemeral_creds.testing import CREATE_ROLE, AppRole, DatabaseEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer, VaultServer

    Unique = Callable[[str], str]

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def checker(
    engine: DatabaseEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Checker:
    return Checker(engine, capsys, monkeypatch)


@pytest.fixture
def role(checker: Checker, unique: Unique) -> str:
    grant = 'GRANT pg_read_all_data TO "{{name}}"'
    checker.engine.create_role(name := unique("check"), grants=[grant])
    return name


# --- addresses ---------------------------------------------------------------------------------


def test_tls(checker: Checker, role: str, authority: Authority) -> None:
    address = checker.engine.vault.tls_address
    url = checker.url(role, checker.login(role), address=address, cacert=str(authority.path))
    assert checker.run(url) == {}
    assert checker.texts("tls") == f"{address}: the certificate is verified"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_certificate_that_is_not_verified_is_a_warning(checker: Checker, role: str) -> None:
    address = checker.engine.vault.tls_address
    bad = checker.run(checker.url(role, checker.login(role), address=address, skip_verify="true"))
    assert list(bad) == ["tls"]
    assert bad["tls"][0].startswith("warn: ")
    assert "VAULT_CACERT" in bad["tls"][0]


def test_a_certificate_of_an_unknown_ca(checker: Checker, role: str, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    address = checker.engine.vault.tls_address
    bad = checker.run(
        checker.url(role, checker.login(role), address=address, cacert=str(stranger.path))
    )
    assert list(bad) == ["tls"]
    assert bad["tls"][0].startswith("fail: ")
    assert checker.status == 3


def test_each_address_is_looked_at(checker: Checker, role: str) -> None:
    address = checker.engine.vault.address
    how = checker.login(role)
    bad = checker.run(checker.url(role, how, address=f"{NOBODY},{address}"))
    assert list(bad) == ["address"]
    assert bad["address"][0].startswith(f"warn: Vault at {NOBODY}, ")
    assert checker.status == 1
    assert f"{address} answers" in checker.texts("address")
    assert f"{NOBODY} answers" not in checker.texts("address")
    assert checker.texts("seal") == f"{address}: unsealed, active"
    assert len(checker.texts("tls").split("; ")) == 2

    bad = checker.run(checker.url(role, how, address=f"{NOBODY},http://127.0.0.1:2"))
    assert [text[:4] for text in bad["address"]] == ["fail", "fail"]


def test_one_sealed_node_of_two(checker: Checker, role: str, own_vault: VaultServer) -> None:
    own_vault.seal()
    addresses = f"{own_vault.address},{checker.engine.vault.address}"
    bad = checker.run(checker.url(role, checker.login(role), address=addresses))
    assert list(bad) == ["seal"]
    assert bad["seal"][0].startswith(f"warn: {own_vault.address} is sealed")
    assert checker.complete


def test_a_vault_that_comes_late(
    own_vault: VaultServer,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checker = Checker(DatabaseEngine(own_vault, postgres), capsys, monkeypatch)
    checker.engine.create_role("app", grants=['GRANT pg_read_all_data TO "{{name}}"'])
    url = checker.url("app", checker.login("app"))
    own_vault.seal()
    assert list(checker.run(url, "--wait", "0.1")) == ["seal"]
    operator = Timer(0.2, own_vault.unseal)
    operator.start()
    assert checker.run(url, "--wait", "60") == {}
    operator.join()


def test_the_socket_of_an_agent(
    vault: VaultServer,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unique: Unique,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    checker = Checker(DatabaseEngine(vault, postgres), capsys, monkeypatch)
    role = unique("check")
    checker.engine.create_role(role, grants=['GRANT pg_read_all_data TO "{{name}}"'])
    token = checker.engine.admin.create_token([checker.engine.policy(role)], ttl="2h")
    with agent_on_a_socket(tmp_path, vault.address, token) as path:
        url = f"vault://{role}?auth=agent&address=unix://{path}"
        until = time.monotonic() + 60
        # It listens before it has logged in.
        while "login" in (bad := checker.run(url, "--wait", "60")) and time.monotonic() < until:
            time.sleep(0.05)
        assert bad == {}
        assert checker.texts("tls").endswith("agent.sock: a socket of this machine")


# --- namespaces -------------------------------------------------------------------------


@needs("namespaces", there=False)
def test_a_namespace_that_vault_does_not_know(checker: Checker, role: str) -> None:
    how = checker.login(role)
    bad = checker.run(checker.url(role, how, namespace="team"))
    assert "ignores 'team'" in bad["namespace"][0]
    assert checker.run(checker.url(role, how, namespace="root")) == {}


@needs("namespaces")
def test_a_namespace(checker: Checker, unique: Unique) -> None:
    """Health is asked for outside of it: OpenBao answers that nowhere else."""
    admin, postgres, team = checker.engine.admin, checker.engine.postgres, unique("team")
    admin.call("POST", f"sys/namespaces/{team}", {})
    admin.call("POST", f"{team}/sys/mounts/database", {"type": "database"})
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.host}:{postgres.port}"
    connection: dict[str, object] = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": "*",
        "connection_url": f"{url}/postgres?sslmode=disable",
        "username": postgres.superuser,
        "password": postgres.password.reveal(),
    }
    admin.call("POST", f"{team}/database/config/postgres", connection)
    statements = [CREATE_ROLE, 'GRANT pg_read_all_data TO "{{name}}"']
    role = {"db_name": "postgres", "creation_statements": statements, "default_ttl": "1h"}
    admin.call("POST", f"{team}/database/roles/app", role)
    rules = (
        'path "database/*" { capabilities = ["read"] } '
        'path "sys/leases/revoke" { capabilities = ["update"] }'
    )
    admin.call("PUT", f"{team}/sys/policies/acl/app", {"policy": rules})
    admin.call("POST", f"{team}/sys/auth/approle", {"type": "approle"})
    path = f"{team}/auth/approle/role/app"
    admin.call("POST", path, {"token_policies": ["app"], "token_ttl": "2h"})
    role_id = admin.call("GET", f"{path}/role-id").data["role_id"]
    secret_id = admin.call("POST", f"{path}/secret-id").data["secret_id"]
    how = AppRole(role_id, Secret(secret_id))
    assert checker.run(checker.url("app", how, namespace=team)) == {}
    # With more than one address, nodes are asked for their health before they are trusted.
    two = f"{NOBODY},{checker.engine.vault.address}"
    bad = checker.run(checker.url("app", how, namespace=team, address=two))
    assert list(bad) == ["address"], bad


# --- what defines the role ------------------------------------------------------------------------


@needs("consul")
def test_another_engine_than_a_databases(
    vault: VaultServer,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unique: Unique,
) -> None:
    checker = Checker(DatabaseEngine(vault, postgres), capsys, monkeypatch)
    admin = checker.engine.admin
    admin.call("POST", f"sys/mounts/{(mount := unique('consul'))}", {"type": "consul"})
    admin.call("POST", f"{mount}/roles/app", {"consul_policies": "app"})
    rules = {
        f"{mount}/creds/app": ["read"],
        f"{mount}/roles/app": ["read"],
        f"{mount}/config/*": ["read"],
        "sys/leases/revoke": ["update"],
    }
    url = checker.url("app", checker.login("app", rules), mount=mount, password_field="token")
    assert checker.run(url, "--dry-run") == {}
    assert checker.levels()["role"] == "skipped"


@pytest.mark.parametrize(
    ("pattern", "allows"),
    [
        ("*", True),
        ("{role}", True),
        ("check-*", True),
        ("*{number}", True),
        ("ch*{number}", True),
        ("{role}*x", False),
        ("?heck-{number}", False),
        ("[c]heck-{number}", False),
    ],
)
def test_allowed_roles_as_vault_reads_them(
    vault: VaultServer,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unique: Unique,
    pattern: str,
    allows: bool,
) -> None:
    number = unique("n")
    role = f"check-{number}"
    engine = DatabaseEngine(vault, postgres, connection=f"narrow-{number}")
    checker = Checker(engine, capsys, monkeypatch)
    engine.create_role(role, grants=['GRANT pg_read_all_data TO "{{name}}"'])
    config = f"database/config/{engine.connection}"
    allowed = pattern.format(role=role, number=number)
    admin = engine.admin
    admin.call("POST", config, {"allowed_roles": allowed, "verify_connection": False})
    bad = checker.run(checker.url(role, checker.login(role)))
    assert (admin.request("GET", f"database/creds/{role}").status == 200) is allows
    assert list(bad) == ([] if allows else ["role"])
    assert allows or "is not in allowed_roles" in bad["role"][0]
    admin.revoke_prefix(f"database/creds/{role}")


def test_how_a_static_role_is_defined(
    checker: Checker, postgres: PostgresServer, unique: Unique
) -> None:
    role, username = unique("static"), unique("static_user")
    with postgres.admin() as admin:
        admin.execute(f"CREATE ROLE {username} LOGIN IN ROLE pg_read_all_data".encode())
    checker.engine.create_static_role(role, username, rotation_period="2h")
    rules = {
        f"database/static-creds/{role}": ["read"],
        f"database/static-roles/{role}": ["read"],
        f"database/config/{checker.engine.connection}": ["read"],
    }
    url = checker.url(role, checker.login(role, rules)).replace("vault:", "vault-static:", 1)
    assert checker.run(url) == {}
    assert f"the password of '{username}' changes each 2 h" in checker.texts("role")


def test_rotation_statements_without_a_password(
    vault: VaultServer,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unique: Unique,
) -> None:
    checker = Checker(DatabaseEngine(vault, postgres), capsys, monkeypatch)
    role, username = unique("static"), unique("static_user")
    with postgres.admin() as admin:
        admin.execute(f"CREATE ROLE {username} LOGIN".encode())
    path = f"database/static-roles/{role}"
    body = {"db_name": "postgres", "username": username, "rotation_period": "2h"}
    statements = {"rotation_statements": 'ALTER ROLE "{{name}}" LOGIN'}
    checker.engine.admin.call("POST", path, body | statements)
    rules = {f"database/static-creds/{role}": ["read"], path: ["read"]}
    url = checker.url(role, checker.login(role, rules)).replace("vault:", "vault-static:", 1)
    assert "set no {{password}}" in checker.run(url)["role"][0]
