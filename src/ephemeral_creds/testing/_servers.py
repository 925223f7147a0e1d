"""The servers of the pytest plugin, started from their sources."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import VaultAdmin
from ephemeral_creds.testing._engine import DatabaseEngine
from ephemeral_creds.testing._fault_proxy import ExternalVault, VaultAccess
from ephemeral_creds.testing._postgres import PostgresAccess, PostgresServer
from ephemeral_creds.testing._vault import VaultServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ephemeral_creds.testing._admin import AppRole
    from ephemeral_creds.testing._sources import Source

__all__ = ["database_engine", "running_postgres", "running_vault"]


def running_postgres(source: Source) -> AbstractContextManager[PostgresAccess]:
    """Start a PostgreSQL; of one that runs already, use a database of our own."""
    if source.kind == "external":
        return _own_database(source.where)
    if source.kind == "testcontainers":
        from ephemeral_creds.testing._containers import postgres_container

        return postgres_container(source.where)
    return PostgresServer(binaries=Path(source.where))


@contextmanager
def _own_database(dsn: str) -> Iterator[PostgresAccess]:
    """Create a database and drop it at the end: other workers, and people, use the server too."""
    told = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    host, user, password = (told.pop(name, "") for name in ("host", "user", "password"))
    if not (host and user and password) or host.startswith("/") or "," in host:
        raise ConfigurationError(
            "--ephemeral-postgres: Vault logs in to PostgreSQL too: give a DSN with one host, "
            "a superuser and its password"
        )
    port, first = int(told.pop("port", 5432)), told.pop("dbname", "postgres")
    access = PostgresAccess(host, port, user, Secret(password), first, told)
    name = f"ephemeral_{secrets.token_hex(6)}"
    with closing(access.admin(first)) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    access.dbname = name
    try:
        yield access
    finally:
        with closing(access.admin(first)) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def running_vault(
    source: Source, token: str, postgres: PostgresAccess
) -> AbstractContextManager[VaultAccess]:
    """Start a Vault or OpenBao, or put a proxy in front of one that already runs."""
    if source.kind == "external":
        if not token:
            raise ConfigurationError(
                "--ephemeral-vault gives an address: give its root token in "
                "EPHEMERAL_CREDS_VAULT_TOKEN"
            )
        return ExternalVault(source.where, Secret(token))
    if source.kind == "testcontainers":
        from ephemeral_creds.testing._containers import vault_container

        return vault_container(source.where, getattr(postgres, "network", None))
    return VaultServer(Path(source.where))


@contextmanager
def database_engine(
    source: Source, vault: VaultAccess, postgres: PostgresAccess
) -> Iterator[tuple[DatabaseEngine[VaultAccess, PostgresAccess], AppRole]]:
    """Set up a database engine, and a login that may use every role of it.

    In a Vault that already ran, they get random names and are removed at the end.
    """
    shared = source.kind == "external"
    mount = f"ephemeral-{secrets.token_hex(6)}" if shared else "database"
    approle = f"{mount}-approle" if shared else "approle"
    contained = source.kind == "testcontainers"
    with ExitStack() as stack:
        # Requests of the set-up are not counted, and no fault applies to them.
        admin = VaultAdmin(vault, vault.server_address)
        if shared:
            for path in (f"policies/acl/{mount}", f"auth/{approle}", f"mounts/{mount}"):
                stack.callback(admin.request, "DELETE", f"sys/{path}")
        engine = DatabaseEngine(
            vault,
            postgres,
            mount=mount,
            dbname=postgres.dbname,
            seen_at=getattr(postgres, "in_network", None) if contained else None,
            admin=admin,
        )
        rules = {f"{mount}/creds/*": ["read"], "sys/leases/revoke": ["update"]}
        policy = admin.write_policy(mount, rules)
        yield engine, admin.create_approle("service", [policy], mount=approle)
