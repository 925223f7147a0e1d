"""The servers of the demo, and what is set up in them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds import AppRoleAuth, ConfigurationError, VaultConfig, VaultDynamicProvider
from ephemeral_creds.cli._external import ExternalVault
from ephemeral_creds.cli._load import APPLICATION
from ephemeral_creds.testing import (
    CREATE_ROLE,
    PostgresServer,
    VaultAdmin,
    VaultAgent,
    VaultServer,
    dotenv_template,
    find_vault,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from ephemeral_creds.cli._demo_options import DemoOptions
    from ephemeral_creds.testing import AppRole

__all__ = ["DEFAULT_TTL", "MAX_TTL", "Sidecar", "World", "open_world"]

DEFAULT_TTL, MAX_TTL = 4, 12  # seconds
_ROLE = "app"
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
    """What is running: a PostgreSQL, and a Vault that `admin` sets up.

    `config` is how the library reaches that Vault, `vault_version` its name and version for people,
    `binary` the program that can be an agent. The engine, the auth method and the policy in it are
    all called `mount`; `login` is how a service logs in.
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

    def provider(self) -> VaultDynamicProvider:
        """Return what a service that talks to Vault itself gets its credentials from."""
        auth = AppRoleAuth(self.login.role_id, self.login.secret_id, mount=self.mount)
        return VaultDynamicProvider(_ROLE, auth=auth, mount=self.mount, config=self.config)


class Sidecar:
    """``vault agent`` or ``bao agent`` that keeps a file of credentials, `path`, fresh."""

    def __init__(self, world: World) -> None:
        self._admin = world.admin
        self._home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-sidecar-"))
        self.path = self._home / "secrets" / "db-creds.txt"
        self.path.parent.mkdir()
        external = isinstance(world.admin, ExternalVault)
        self._agent = VaultAgent(
            world.config.address,
            world.login,
            templates={self.path: dotenv_template(f"{world.mount}/creds/{_ROLE}")},
            environment=_to_reach_vault() if external else {},
            binary=world.binary,
        )

    def start(self) -> None:
        """Start the agent; the file comes a little later."""
        self._agent.start()

    def has_written(self) -> bool:
        """Whether the file is there.

        Raises:
            ConfigurationError: the agent has ended.
        """
        self._agent.check()
        return self.path.exists()

    def close(self) -> None:
        """Stop the agent, revoke its token and so its leases, and remove the files."""
        try:
            self._agent.stop()
            # None where the agent was stopped before it had logged in.
            if (token := self._agent.token) is not None:
                self._admin.call("POST", "auth/token/revoke-self", token=token)
        finally:
            self._agent.close()
            shutil.rmtree(self._home, ignore_errors=True)


def _to_reach_vault() -> dict[str, str]:
    """Return the variables for reaching Vault, without the token: the agent has its own."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("VAULT_", "BAO_")) and name not in ("VAULT_TOKEN", "BAO_TOKEN")
    }


def open_world(
    options: DemoOptions,
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
        left_behind: gets a line for each thing that `stack` could not remove from an
            external Vault.

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
        number = connection.info.parameter_status("server_version")
        say(f"PostgreSQL {number} on port {postgres.port}")
        connection.execute(_SCHEMA)
    check()
    if isinstance(admin, ExternalVault):
        # Before the first step: half of it may be there when it is interrupted. A server of ours
        # forgets it in any case.
        stack.callback(lambda: left_behind.extend(admin.remove_all()))
    mount = f"ephemeral-creds-demo-{secrets.token_hex(4)}"
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


def _open_vault(
    options: DemoOptions, stack: ExitStack
) -> tuple[VaultAdmin, str, VaultConfig, Path]:
    if options.external:
        external = ExternalVault()
        health = external.request("GET", "sys/health")
        if health.status not in (200, 429, 472, 473):
            raise ConfigurationError(
                f"the Vault at {external.config.address} is not ready (sys/health says "
                f"{health.status}): unseal it, or check VAULT_ADDR"
            )
        version = health.body.get("version", "of unknown version")
        return external, f"external {version}", external.config, find_vault()
    # A proxy of the environment must not get what is meant for this machine.
    exempt = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", "127.0.0.1"]
    os.environ["no_proxy"] = ",".join(filter(None, exempt))
    server = stack.enter_context(VaultServer(options.vault))
    return VaultAdmin(server), server.version, VaultConfig(server.address), server.binary


def _set_up(admin: VaultAdmin, mount: str, postgres: PostgresServer) -> AppRole:
    admin.call("POST", f"sys/mounts/{mount}", {"type": "database"})
    where = f"{postgres.host}:{postgres.port}/postgres?sslmode=disable"
    connection: dict[str, object] = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": _ROLE,
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{where}",
        "username": postgres.superuser,
        "password": postgres.password.reveal(),
    }
    admin.call("POST", f"{mount}/config/postgres", connection)
    role: dict[str, object] = {
        "db_name": "postgres",
        "default_ttl": DEFAULT_TTL,
        "max_ttl": MAX_TTL,
        "creation_statements": [CREATE_ROLE, 'GRANT demo_app TO "{{name}}";'],
    }
    admin.call("POST", f"{mount}/roles/{_ROLE}", role)
    rules = {f"{mount}/creds/{_ROLE}": ["read"]}
    rules |= {f"sys/leases/{what}": ["update"] for what in ("renew", "revoke")}
    policy = admin.write_policy(mount, rules)
    return admin.create_approle(_ROLE, [policy], token_ttl=3600, token_max_ttl=86400, mount=mount)
