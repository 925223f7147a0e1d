"""What is wrong in samples that circulate, shown on real servers; each row of the docs' page."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from ephemeral_creds import (
    ConfigurationError,
    FixedProvider,
    KubernetesAuth,
    RotatingConnectionPool,
    Secret,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.testing import CREATE_ROLE
from service_accounts import TokenReviewServer, create_kubernetes_role, make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import DatabaseEngine, PostgresServer

pytestmark = pytest.mark.slow

AWKWARD = "p@ss/w0rd#1%20"


@pytest.fixture
def table(postgres: PostgresServer, unique: Callable[[str], str]) -> str:
    """A table, owned by a role that stays and has the same name with _owner."""
    name = unique("sample")
    with postgres.admin() as connection:
        connection.execute(f"CREATE ROLE {name}_owner NOLOGIN")
        connection.execute(f"CREATE TABLE {name} (n int)")
        connection.execute(f"ALTER TABLE {name} OWNER TO {name}_owner")
    return name


# --- Statements ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        [CREATE_ROLE.replace('"{{name}}"', "{{name}}")],
        [CREATE_ROLE, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {{name}};"],
    ],
    ids=["CREATE ROLE", "GRANT"],
)
def test_an_unquoted_name(
    engine: DatabaseEngine, unique: Callable[[str], str], statements: list[str]
) -> None:
    """Vault's names have hyphens."""
    role = unique("unquoted")
    engine.create_role(role, creation_statements=statements)
    answer = engine.read(role)
    assert answer.status >= 400
    assert "syntax error" in str(answer.errors)
    assert engine.postgres.roles(f"v-root-{role}") == []


def test_drop_role_without_dropping_rights(
    engine: DatabaseEngine, unique: Callable[[str], str], table: str
) -> None:
    role = unique("stays")
    engine.create_role(
        role,
        grants=[f'GRANT SELECT ON {table} TO "{{{{name}}}}"'],
        revocation_statements=['DROP ROLE IF EXISTS "{{name}}"'],
    )
    minted = engine.read(role)
    lease = {"lease_id": minted.body["lease_id"], "sync": True}
    refused = engine.admin.request("PUT", "sys/leases/revoke", lease)
    assert refused.status >= 400
    assert "cannot be dropped because some objects depend on it" in str(refused.errors)
    # The lease was revoked, and the credentials still work.
    engine.login(minted.data).close()
    # The statements of the examples, with which it works, are in test_example_setups.py. Here:
    engine.create_role(
        role,
        revocation_statements=[
            f'REASSIGN OWNED BY "{{{{name}}}}" TO {table}_owner',
            'DROP OWNED BY "{{name}}"',
            'DROP ROLE "{{name}}"',
        ],
    )
    engine.admin.call("PUT", "sys/leases/revoke", lease)
    assert engine.postgres.roles(minted.data["username"]) == []


def test_rights_on_all_tables_are_on_todays_tables(
    engine: DatabaseEngine, unique: Callable[[str], str], table: str
) -> None:
    today, group = unique("today"), unique("group")
    engine.create_role(today, grants=['GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}"'])
    engine.create_role(group, grants=[f'GRANT {table}_owner TO "{{{{name}}}}"'])
    with engine.login(engine.read(today).data) as connection:
        connection.execute(f"SELECT FROM {table}")
        with engine.postgres.admin() as admin:
            admin.execute(f"CREATE TABLE {table}_later (n int)")
            admin.execute(f"ALTER TABLE {table}_later OWNER TO {table}_owner")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT FROM {table}_later")
    with engine.login(engine.read(group).data) as connection:
        connection.execute(f"SELECT FROM {table}_later")
    engine.admin.revoke_prefix(f"database/creds/{today}")
    engine.admin.revoke_prefix(f"database/creds/{group}")


# --- Logging in to Vault ------------------------------------------------------------------------


def test_the_policys_name_where_the_auth_roles_belongs(
    engine: DatabaseEngine, unique: Callable[[str], str], tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    role = unique("web")
    engine.create_role(role)
    policy = engine.policy(role)
    jwt = tmp_path / "jwt"
    jwt.write_text(make_service_account_jwt().reveal())
    with TokenReviewServer() as reviewer:
        create_kubernetes_role(engine.admin, role, reviewer, [policy])
        config = VaultConfig(engine.vault.address)

        def fetch(auth_role: str) -> None:
            auth = KubernetesAuth(auth_role, jwt_path=jwt)
            provider = VaultDynamicProvider(role, auth=auth, config=config)
            try:
                provider.revoke(provider.fetch())
            finally:
                provider.close()

        with pytest.raises(ConfigurationError, match="invalid role name"):
            fetch(policy)
        fetch(role)


# --- Connecting ---------------------------------------------------------------------------------


def test_a_url_put_together_by_formatting(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    user = unique("awkward")
    with postgres.admin() as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{AWKWARD}'")
    url = f"postgresql://{user}:{AWKWARD}@{postgres.host}:{postgres.port}/postgres"
    assert conninfo_to_dict(url)["host"] == "ss", "that is where it would go, with half a password"
    provider = FixedProvider(user, Secret(AWKWARD))
    with RotatingConnectionPool(provider, postgres.conninfo(), min_size=1) as pool:
        pool.wait()
        with pool.connection() as pooled:
            assert pooled.execute("SELECT current_user").fetchone() == (user,)


@contextmanager
def tapped(postgres: PostgresServer) -> Iterator[tuple[int, bytearray]]:
    """A relay between client and server, which writes down what the client sends."""
    heard = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, note: bool) -> None:
        while data := source.recv(65536):
            if note:
                heard.extend(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection((postgres.host, postgres.port)) as server:
            back = threading.Thread(target=pump, args=(server, client, False))
            back.start()
            pump(client, server, note=True)
            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield listener.getsockname()[1], heard
        thread.join(10)


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_new_passwords_travel_in_the_open(
    postgres: PostgresServer, unique: Callable[[str], str], sslmode: str
) -> None:
    """What Vault sends to make a role; `prefer` is what libpq does by itself."""
    name = unique("overheard")
    with tapped(postgres) as (port, heard):
        connection = psycopg.connect(
            host="127.0.0.1",
            port=port,
            dbname="postgres",
            user=postgres.superuser,
            password=postgres.password.reveal(),
            sslmode=sslmode,
            autocommit=True,
        )
        assert not connection.pgconn.ssl_in_use
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'a-new-password'")
        connection.close()
    assert b"a-new-password" in heard


def test_verify_full_does_not_talk_to_a_server_without_tls(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        psycopg.connect(postgres.conninfo(), sslmode="verify-full", sslrootcert="system")


def test_an_environment_variable_is_read_once(
    engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    role = unique("once")
    engine.create_role(role)
    at_start = dict(engine.read(role).data)
    engine.login(at_start).close()
    engine.admin.revoke_prefix(f"database/creds/{role}")  # as an hour later
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        engine.login(at_start)
