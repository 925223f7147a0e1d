"""A database secrets engine for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic
from urllib.parse import quote, urlencode

from typing_extensions import TypeVar

from ephemeral_creds._values import Secret
from ephemeral_creds.testing._admin import VaultAdmin, whole_seconds
from ephemeral_creds.testing._postgres import PostgresAccess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from ephemeral_creds.testing._admin import VaultResponse
    from ephemeral_creds.testing._fault_proxy import VaultAccess
    from ephemeral_creds.testing._postgres import PostgresLike, PostgresServer
    from ephemeral_creds.testing._vault import VaultServer

__all__ = ["CREATE_ROLE", "DatabaseEngine"]

VT = TypeVar("VT", bound="VaultAccess", default="VaultServer", covariant=True)
PT = TypeVar("PT", bound="PostgresLike", default="PostgresServer", covariant=True)

# What Vault's driver (pgx) takes, too. Whatever else a URL says, it sends to PostgreSQL to set.
_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni")

CREATE_ROLE = (
    """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' """
    """VALID UNTIL '{{expiration}}';"""
)
"""The creation statement that Vault's own documentation shows."""


class DatabaseEngine(Generic[VT, PT]):
    """A database secrets engine on a PostgreSQL.

    Args:
        vault: a running server.
        postgres: a running server, or anything `PostgresLike`.
        mount: where the engine is mounted, unless it is already.
        connection: the name of its connection to `postgres`.
        dbname: the database that Vault connects to.
        parameters: how Vault and `login` connect, by libpq's names, such as ``sslmode`` and
            ``sslrootcert``; ``None`` takes those of a `PostgresAccess`. Of these Vault is told what
            concerns TLS; it has to find files under the same paths.
        seen_at: host and port of `postgres` as Vault sees them, if they are not its own.
        admin: sets it up; ``None`` is root, through the server's fault proxy.
    """

    def __init__(
        self,
        vault: VT,
        postgres: PT,
        *,
        mount: str = "database",
        connection: str = "postgres",
        dbname: str = "postgres",
        parameters: Mapping[str, str] | None = None,
        seen_at: tuple[str, int] | None = None,
        admin: VaultAdmin | None = None,
    ) -> None:
        self.vault = vault
        self.admin = admin or VaultAdmin(vault)
        self.postgres = postgres
        self.mount = mount
        self.connection = connection
        if parameters is None:
            parameters = postgres.parameters if isinstance(postgres, PostgresAccess) else {}
        self._access = PostgresAccess(
            postgres.host, postgres.port, postgres.superuser, postgres.password, dbname, parameters
        )
        if f"{mount}/" not in self.admin.call("GET", "sys/mounts").data:
            self.admin.call("POST", f"sys/mounts/{mount}", {"type": "database"})
        host, port = seen_at or (postgres.host, postgres.port)
        if ":" in host:
            host = f"[{host}]"
        # libpq's default if nothing is said: what the pool can connect to, Vault can, too.
        tls = {"sslmode": "prefer"} | {k: v for k, v in parameters.items() if k in _TLS}
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{quote(dbname)}"
        self.admin.call(
            "POST",
            f"{mount}/config/{connection}",
            {
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": "*",
                "connection_url": f"{url}?{urlencode(tls, quote_via=quote)}",
                "username": postgres.superuser,
                "password": postgres.password.reveal(),
            },
        )

    def create_role(
        self,
        name: str,
        *,
        default_ttl: str | float = "1h",
        max_ttl: str | float = "24h",
        grants: Sequence[str] = (),
        creation_statements: Sequence[str] = (CREATE_ROLE,),
        revocation_statements: Sequence[str] = (),
        renew_statements: Sequence[str] = (),
    ) -> str:
        """Create or replace a role and return the path to read credentials from.

        Args:
            name: the role.
            default_ttl: what a lease is given at first: seconds, rounded up to whole ones, or text
                such as ``"4s"``.
            max_ttl: the end of all renewals.
            grants: further statements, for example ``GRANT SELECT ON t TO "{{name}}"``.
            creation_statements: what creates a role.
            revocation_statements: what removes it; none for Vault's own way.
            renew_statements: what extends it; none for Vault's own way.
        """
        self.admin.call(
            "POST",
            f"{self.mount}/roles/{name}",
            {
                "db_name": self.connection,
                "default_ttl": whole_seconds(default_ttl),
                "max_ttl": whole_seconds(max_ttl),
                "creation_statements": [*creation_statements, *grants],
                "revocation_statements": list(revocation_statements),
                "renew_statements": list(renew_statements),
            },
        )
        return f"{self.mount}/creds/{name}"

    def create_static_role(
        self,
        name: str,
        username: str,
        *,
        rotation_period: str | float | None = None,
        rotation_schedule: str | None = None,
    ) -> str:
        """Let Vault rotate the password of an existing PostgreSQL role; return the path to read.

        Vault changes its password at once.

        Args:
            name: the static role.
            username: the PostgreSQL role.
            rotation_period: seconds, or text such as ``"24h"`` (the default); 5 s at least.
            rotation_schedule: instead of it, in the manner of cron and in UTC.
        """
        body: dict[str, object] = {"db_name": self.connection, "username": username}
        if rotation_schedule is not None:
            body["rotation_schedule"] = rotation_schedule
        else:
            body["rotation_period"] = whole_seconds(rotation_period or "24h")
        self.admin.call("POST", f"{self.mount}/static-roles/{name}", body)
        return f"{self.mount}/static-creds/{name}"

    def rotate_static_role(self, name: str) -> None:
        """Have Vault change the password of a static role now."""
        self.admin.call("POST", f"{self.mount}/rotate-role/{name}")

    def delete_role(self, name: str) -> None:
        """Remove a role; its leases live on but cannot be renewed."""
        self.admin.call("DELETE", f"{self.mount}/roles/{name}")

    def policy(self, role: str, *, may_revoke: bool = True) -> str:
        """Write a policy that allows to use `role`, and return its name.

        With `may_revoke` also to revoke leases, which ``default`` does not allow.
        """
        rules: dict[str, Sequence[str]] = {f"{self.mount}/creds/{role}": ["read"]}
        if may_revoke:
            rules["sys/leases/revoke"] = ["update"]
        return self.admin.write_policy(f"use-{role}", rules)

    def read(self, role: str, *, token: Secret | None = None) -> VaultResponse:
        """Ask for credentials of `role` as `token`, by default as root."""
        return self.admin.request("GET", f"{self.mount}/creds/{role}", token=token)

    def leases(self, role: str) -> list[str]:
        """Return the ids of the live leases of `role`."""
        return self.admin.leases(f"{self.mount}/creds/{role}")

    def mints(self, role: str) -> int:
        """Return how many leases of `role` were handed out since Vault's start."""
        return self.vault.mints(f"{self.mount}/creds/{role}")

    def login(self, credentials: Mapping[str, Any]) -> psycopg.Connection:
        """Return a connection with the ``data`` of a `read`."""
        return self._access.login(credentials["username"], Secret(credentials["password"]))
