"""The servers of the demo, and what is set up in them."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds import (
    AppRoleAuth,
    ConfigurationError,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.cli._external import ExternalVault, ExternalVaultAdmin
from ephemeral_creds.testing import (
    CREATE_ROLE,
    PostgresServer,
    VaultAdmin,
    VaultServer,
    find_vault,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.cli._arguments import Options
    from ephemeral_creds.testing import AppRole

__all__ = ["APPLICATION", "DEFAULT_TTL", "MAX_TTL", "ROLE", "World", "open_world"]

DEFAULT_TTL = 4
"""Seconds that a lease lasts without being renewed."""
MAX_TTL = 12
"""Seconds after which it can no longer be renewed."""
ROLE = "app"
"""The Vault role that the credentials are of."""
APPLICATION = "ephemeral-creds-demo"
"""The ``application_name`` of the pool's connections."""

_SCHEMA = """
    CREATE ROLE demo_app NOLOGIN;
    CREATE TABLE entries (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        worker int NOT NULL, number bigint NOT NULL
    );
    CREATE TABLE totals (worker int PRIMARY KEY, total bigint NOT NULL);
    INSERT INTO totals SELECT worker, 0 FROM generate_series(0, 499) AS worker;
    ALTER TABLE entries OWNER TO demo_app;
    ALTER TABLE totals OWNER TO demo_app
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is running.

    Attributes:
        postgres: the PostgreSQL that the pool connects to.
        admin: whom to set up the Vault with.
        vault_version: name and version of the Vault, for people.
        config: how the library reaches it.
        binary: the program that can be an agent.
        mount: the name of all that we have set up in Vault: engine, auth method and policy.
        login: how a service logs in to Vault.
    """

    postgres: PostgresServer
    admin: VaultAdmin
    vault_version: str
    config: VaultConfig
    binary: Path
    mount: str
    login: AppRole

    @property
    def conninfo(self) -> str:
        """How the pool connects."""
        return f"{self.postgres.conninfo()} application_name={APPLICATION}"

    @property
    def is_external(self) -> bool:
        """Whether the Vault is somebody else's."""
        return isinstance(self.admin, ExternalVaultAdmin)

    def provider(self) -> VaultDynamicProvider:
        """Return what a service that talks to Vault itself gets its credentials from."""
        auth = AppRoleAuth(self.login.role_id, self.login.secret_id, mount=self.mount)
        return VaultDynamicProvider(ROLE, auth=auth, mount=self.mount, config=self.config)


def open_world(
    options: Options,
    stack: ExitStack,
    check: Callable[[], None],
    say: Callable[[str], None],
    left_behind: list[str],
) -> World:
    """Start and set up everything.

    Args:
        options: what the user wants; which Vault, above all.
        stack: gets what stops and removes it all again.
        check: called between two steps; may raise.
        say: called with what happens, for people.
        left_behind: gets a line for each thing that `stack` could not remove from a Vault that
            is somebody else's.

    Raises:
        EphemeralCredsError: a server does not start or is not there.
        VaultCallFailed: Vault refuses to be set up.
    """
    check()
    admin, version, config, binary = _open_vault(options, stack)
    say(f"Vault: {version}, at {config.address}")
    check()
    postgres = stack.enter_context(PostgresServer())
    check()
    with closing(postgres.admin()) as connection:
        say(
            f"PostgreSQL {connection.info.parameter_status('server_version')} "
            f"on port {postgres.port}"
        )
        connection.execute(_SCHEMA)
    check()
    mount = f"ephemeral-creds-demo-{secrets.token_hex(4)}"
    if isinstance(admin, ExternalVaultAdmin):
        # Before the first step: half of it may be there when it is interrupted. A server of ours
        # forgets it in any case.
        stack.callback(lambda: left_behind.extend(admin.remove_all()))
    login = _set_up(admin, mount, postgres)
    check()
    return World(
        postgres=postgres,
        admin=admin,
        vault_version=version,
        config=config,
        binary=binary,
        mount=mount,
        login=login,
    )


def _open_vault(options: Options, stack: ExitStack) -> tuple[VaultAdmin, str, VaultConfig, Path]:
    if options.external:
        external = ExternalVault()
        admin = ExternalVaultAdmin(external)
        health = admin.request("GET", "sys/health")
        if health.status not in (200, 429, 472, 473):
            raise ConfigurationError(
                f"the Vault at {external.address} is not ready (sys/health says {health.status}): "
                "unseal it, or check VAULT_ADDR"
            )
        version = health.body.get("version", "of unknown version")
        return admin, f"external {version}", external.config, find_vault()
    # A proxy of the environment must not get what is meant for this machine.
    exempt = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", "127.0.0.1"]
    os.environ["no_proxy"] = ",".join(filter(None, exempt))
    server = stack.enter_context(VaultServer(options.vault))
    return VaultAdmin(server), server.version, VaultConfig(server.address), server.binary


def _set_up(admin: VaultAdmin, mount: str, postgres: PostgresServer) -> AppRole:
    admin.call("POST", f"sys/mounts/{mount}", {"type": "database"})
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.host}:{postgres.port}/postgres"
    admin.call(
        "POST",
        f"{mount}/config/postgres",
        {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ROLE,
            "connection_url": f"{url}?sslmode=disable",
            "username": postgres.superuser,
            "password": postgres.password.reveal(),
        },
    )
    admin.call(
        "POST",
        f"{mount}/roles/{ROLE}",
        {
            "db_name": "postgres",
            "default_ttl": DEFAULT_TTL,
            "max_ttl": MAX_TTL,
            "creation_statements": [CREATE_ROLE, 'GRANT demo_app TO "{{name}}";'],
        },
    )
    policy = admin.write_policy(
        mount,
        {
            f"{mount}/creds/{ROLE}": ["read"],
            "sys/leases/renew": ["update"],
            "sys/leases/revoke": ["update"],
        },
    )
    return admin.create_approle(ROLE, [policy], token_ttl=3600, token_max_ttl=86400, mount=mount)
