"""The database secrets engine: creates, prolongs and drops real roles in a real PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal, one_error, random_text, seconds
from ephemeral_creds.testing._emulator.database.postgres import (
    Connection,
    DatabaseTrouble,
    drop_as_vault_does,
    run,
)
from ephemeral_creds.testing._emulator.database.static import StaticRoles

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DatabaseMount", "Role"]

_LOGIN_MARGIN = 5.0  # Vault lets VALID UNTIL outlive the lease by this many seconds
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"


@dataclass(slots=True)
class Role:
    """How credentials of one role are made."""

    name: str
    connection: str
    default_ttl: float
    max_ttl: float
    creation: list[str]
    renewal: list[str]
    revocation: list[str]

    def describe(self) -> dict[str, Any]:
        """Return the role as Vault shows it."""
        return {
            "creation_statements": self.creation,
            "credential_type": "password",
            "db_name": self.connection,
            "default_ttl": round(self.default_ttl),
            "max_ttl": round(self.max_ttl),
            "renew_statements": self.renewal,
            "revocation_statements": self.revocation,
            "rollback_statements": [],
        }


class DatabaseMount:
    """One mounted database engine.

    Args:
        now: Unix time in seconds.

    Attributes:
        roles: what makes credentials, by name.
        static: the roles that stay.
    """

    mount_type = "database"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._connections: dict[str, Connection] = {}
        self.roles: dict[str, Role] = {}
        self.static = StaticRoles(self.change_password, now)

    def configure(self, name: str, body: dict[str, Any]) -> None:
        """Remember a connection, once it has been tried; what is not said stays as it was."""
        known = self._connections.get(name, Connection("", "", ""))
        allowed = body.get("allowed_roles", known.allowed_roles)
        connection = Connection(
            url=str(body.get("connection_url", known.url)),
            username=str(body.get("username", known.username)),
            password=str(body.get("password", known.password)),
            allowed_roles=allowed.split(",") if isinstance(allowed, str) else list(allowed),
            verify=bool(body.get("verify_connection", known.verify)),
        )
        if connection.verify:
            try:
                with connection.open():
                    pass
            except DatabaseTrouble as error:
                text = f"error creating database object: error verifying connection: {error}"
                raise Refusal(400, text) from None
        self._connections[name] = connection

    def configuration(self, name: str) -> dict[str, Any]:
        """Return a connection as Vault shows it: without its password."""
        connection = self._connections.get(name)
        if connection is None:
            raise Refusal(404)
        return {
            "allowed_roles": connection.allowed_roles,
            "connection_details": {
                "connection_url": connection.url,
                "username": connection.username,
            },
            "disable_automated_rotation": False,
            "password_policy": "",
            "plugin_name": "postgresql-database-plugin",
            "plugin_version": "",
            "root_credentials_rotate_statements": [],
            "rotation_period": 0,
            "rotation_schedule": "",
            "rotation_window": 0,
            "skip_static_role_import_rotation": False,
            "verify_connection": connection.verify,
        }

    def write_role(self, name: str, body: dict[str, Any]) -> None:
        """Create or replace a role."""
        self.roles[name] = Role(
            name=name,
            connection=str(body.get("db_name", "")),
            default_ttl=seconds(body.get("default_ttl")),
            max_ttl=seconds(body.get("max_ttl")),
            creation=_statements(body.get("creation_statements")),
            renewal=_statements(body.get("renew_statements")),
            revocation=_statements(body.get("revocation_statements")),
        )

    def create(self, role: Role, display_name: str, ttl: float) -> dict[str, str]:
        """Create a PostgreSQL role and return how to log in as it.

        Raises:
            Refusal: PostgreSQL is away or the statements are wrong.
        """
        connection = self._connections.get(role.connection)
        if connection is None:
            raise Refusal(
                500, f'failed to find entry for connection with name: "{role.connection}"'
            )
        if not {"*", role.name} & set(connection.allowed_roles):
            raise Refusal(500, one_error(f'"{role.name}" is not an allowed role'))
        tail = f"{random_text(20)}-{int(self._now())}"
        values = {
            "name": f"v-{display_name[:8]}-{role.name[:8]}-{tail}"[:63],
            "password": random_text(20, _LETTERS),
            "expiration": self._expiration(ttl),
        }
        try:
            with connection.open() as conn:
                run(conn, role.creation, values)
        except DatabaseTrouble as error:
            raise Refusal(500, one_error(f"unable to start transaction: {error}")) from None
        return {"username": values["name"], "password": values["password"]}

    def renew(self, role_name: str, username: str, ttl: float) -> None:
        """Move a role's last login date.

        Raises:
            DatabaseTrouble: it could not be done; nothing has changed.
        """
        role, connection = self._of(role_name)
        statements = role.renewal or ["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'"]
        with connection.open() as conn:
            run(conn, statements, {"name": username, "expiration": self._expiration(ttl)})

    def drop(
        self, role_name: str, connection_name: str, statements: list[str], username: str
    ) -> None:
        """Drop a role as its definition says now or, where that is gone, by `statements`.

        Without any it is done in Vault's own way.

        Raises:
            DatabaseTrouble: it could not be done, or only half.
        """
        role = self.roles.get(role_name)
        if role is not None:
            connection_name, statements = role.connection, role.revocation
        with self._connections[connection_name].open() as conn:
            if statements:
                run(conn, statements, {"name": username})
            else:
                drop_as_vault_does(conn, username)

    def change_password(self, connection_name: str, username: str) -> str:
        """Give a role that stays another password, and return it.

        Raises:
            DatabaseTrouble: it could not be done; nothing has changed.
        """
        connection = self._connections.get(connection_name)
        if connection is None:
            raise DatabaseTrouble(
                f'failed to find entry for connection with name: "{connection_name}"'
            )
        values = {"name": username, "password": random_text(20, _LETTERS)}
        with connection.open() as conn:
            run(conn, ["ALTER ROLE \"{{name}}\" WITH PASSWORD '{{password}}'"], values)
        return values["password"]

    def role_of(self, name: str) -> Role | None:
        """Return a role as it is defined now."""
        return self.roles.get(name)

    def _of(self, role_name: str) -> tuple[Role, Connection]:
        role = self.roles.get(role_name)
        if role is None:
            raise DatabaseTrouble(
                f'error during renew: could not find role with name "{role_name}"'
            )
        return role, self._connections[role.connection]

    def _expiration(self, ttl: float) -> str:
        end = datetime.fromtimestamp(self._now() + ttl + _LOGIN_MARGIN, UTC)
        return end.strftime("%Y-%m-%d %H:%M:%S%z")


def _statements(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
