"""PostgreSQL and Vault, set up by nothing but the files below `examples/`."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ephemeral_creds.testing import PostgresServer, VaultAdmin, VaultServer
from ephemeral_creds.testing._binaries import find_postgres

if TYPE_CHECKING:
    import psycopg

    from ephemeral_creds.testing import VaultResponse

__all__ = ["EXAMPLES", "ExampleWorld"]

EXAMPLES = Path(__file__).parents[2] / "examples"
ROLE = "my-app-role"


class ExampleWorld:
    """A PostgreSQL with the examples' schema, and a Vault with nothing in it.

    Args:
        binary: a real Vault: the examples use its command line.
        folder: for a link to it that is called `vault`.
        postgres: a server of another kind than the usual one.
        vault: the same.
        settings: further variables of the administrator's shell.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        postgres: PostgresServer | None = None,
        vault: VaultServer | None = None,
        **settings: str,
    ) -> None:
        self._stack = ExitStack()
        self._postgres = postgres or PostgresServer()
        self._vault = vault or VaultServer(binary)
        self._settings = settings
        self._commands = folder / "commands"
        self._commands.mkdir()
        (self._commands / "vault").symlink_to(binary)

    def __enter__(self) -> Self:
        self.postgres = self._stack.enter_context(self._postgres)
        self.vault = self._stack.enter_context(self._vault)
        self.admin = VaultAdmin(self.vault)
        with self.postgres.admin() as connection:
            connection.execute("CREATE DATABASE mydb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def conninfo(self) -> str:
        return self.postgres.conninfo("mydb")

    @property
    def environment(self) -> dict[str, str]:
        """Return what an administrator's shell would have."""
        return {
            "PATH": f"{self._commands}:{find_postgres()}:{os.environ['PATH']}",
            "VAULT_ADDR": self.vault.address,
            "VAULT_TOKEN": self.vault.root_token.reveal(),
            "DB_HOST": self.postgres.host,
            "DB_PORT": str(self.postgres.port),
            "DB_PASSWORD": self.postgres.password.reveal(),
            # There is no TLS in the PostgreSQL that comes as a wheel.
            "DB_SSLMODE": "disable",
            "PGHOST": self.postgres.host,
            "PGPORT": str(self.postgres.port),
            "PGPASSWORD": self.postgres.password.reveal(),
            **self._settings,
        }

    def run(self, script: Path, *arguments: str, **variables: str) -> str:
        """Run a script as its shell would, and return what it says."""
        done = subprocess.run(
            [script, *arguments],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set_up(self) -> None:
        """Do what `examples/vault` says."""
        self.run(
            find_postgres() / "psql",
            *("-v", "ON_ERROR_STOP=1", "-v", f"admin_password={self.postgres.password.reveal()}"),
            *("-q", "-U", self.postgres.superuser, "-f", str(EXAMPLES / "vault/schema.sql")),
            "mydb",
        )
        self.run(EXAMPLES / "vault/database.sh")

    def read(self) -> VaultResponse:
        """Mint credentials."""
        return self.admin.call("GET", f"database/creds/{ROLE}")

    def login(self, credentials: VaultResponse) -> psycopg.Connection:
        """Log in with them."""
        data = credentials.data
        return self.postgres.login(data["username"], data["password"], "mydb")

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Ask the database as its superuser."""
        with self.postgres.admin("mydb") as connection:
            return connection.execute(text).fetchall()
