"""The database secrets engine: creates, prolongs and drops real roles in a real PostgreSQL."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from ephemeral_creds.testing._emulator._wire import Refusal, one_error, random_text, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DatabaseMount", "DatabaseTrouble", "Role"]

_CONNECT_TIMEOUT = 20  # seconds; Vault itself has no limit but that of the request
_LOGIN_MARGIN = 5.0  # Vault lets VALID UNTIL outlive the lease by this many seconds
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"


class DatabaseTrouble(Exception):
    """PostgreSQL refused, or is away."""


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


@dataclass(slots=True)
class _Connection:
    url: str
    username: str
    password: str = field(repr=False)
    allowed_roles: list[str] = field(default_factory=list)
    # Vault's plugin serves one statement at a time for each connection configured.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self) -> Iterator[psycopg.Connection]:
        url = self.url.replace("{{username}}:{{password}}@", "")
        with self.lock:
            try:
                connection = psycopg.connect(
                    url,
                    user=self.username,
                    password=self.password,
                    autocommit=True,
                    connect_timeout=_CONNECT_TIMEOUT,
                )
            except psycopg.OperationalError as error:
                # Never the error itself: it carries the connection, and that the password.
                text = str(error).splitlines()[0]
                raise DatabaseTrouble(f"failed to connect to `{url}`: {text}") from None
            with closing(connection):
                yield connection


class DatabaseMount:
    """One mounted database engine.

    Args:
        now: Unix time in seconds.
    """

    mount_type = "database"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._connections: dict[str, _Connection] = {}
        self.roles: dict[str, Role] = {}

    def configure(self, name: str, body: dict[str, Any]) -> None:
        """Remember a connection, once it has been tried."""
        allowed = body.get("allowed_roles") or []
        connection = _Connection(
            url=str(body.get("connection_url", "")),
            username=str(body.get("username", "")),
            password=str(body.get("password", "")),
            allowed_roles=allowed.split(",") if isinstance(allowed, str) else list(allowed),
        )
        if body.get("verify_connection", True):
            try:
                with connection.open():
                    pass
            except DatabaseTrouble as error:
                text = f"error creating database object: error verifying connection: {error}"
                raise Refusal(400, text) from None
        self._connections[name] = connection

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
                _run(conn, role.creation, values)
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
            _run(conn, statements, {"name": username, "expiration": self._expiration(ttl)})

    def drop(self, connection_name: str, statements: list[str], username: str) -> None:
        """Drop a role, by `statements` or, without any, in Vault's own way.

        Raises:
            DatabaseTrouble: it could not be done, or only half.
        """
        with self._connections[connection_name].open() as conn:
            if statements:
                _run(conn, statements, {"name": username})
            else:
                _drop_as_vault_does(conn, username)

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
            _run(conn, ["ALTER ROLE \"{{name}}\" WITH PASSWORD '{{password}}'"], values)
        return values["password"]

    def role_of(self, name: str) -> Role | None:
        """Return a role as it is defined now."""
        return self.roles.get(name)

    def _of(self, role_name: str) -> tuple[Role, _Connection]:
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


def _run(conn: psycopg.Connection, statements: list[str], values: dict[str, str]) -> None:
    """Run templates in one transaction."""
    texts = dict(values, username=values["name"])
    try:
        with conn.transaction():
            for statement in statements:
                for key, value in texts.items():
                    statement = statement.replace("{{" + key + "}}", value)  # noqa: PLW2901
                for part in filter(None, map(str.strip, statement.split(";"))):
                    conn.execute(part.encode())
    except psycopg.Error as error:
        raise DatabaseTrouble(_as_vault_says(error)) from None


def _as_vault_says(error: psycopg.Error) -> str:
    """Word what PostgreSQL said as Vault's own driver does."""
    said = f"{error.diag.severity}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})"
    return said if error.sqlstate else str(error)


def _drop_as_vault_does(conn: psycopg.Connection, username: str) -> None:
    """Take each right away, going on after failures; drop the role only if none failed."""
    if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [username]).fetchone():
        return
    role = sql.Identifier(username)
    rows = conn.execute(
        "SELECT DISTINCT table_schema FROM information_schema.role_column_grants "
        "WHERE grantee = %s",
        [username],
    ).fetchall()
    steps = []
    for schema in {row[0] for row in rows} | {"public"}:
        place = sql.Identifier(schema)
        steps += [
            sql.SQL(text).format(place, role)
            for text in (
                "REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA {} FROM {}",
                "REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA {} FROM {}",
                "REVOKE USAGE ON SCHEMA {} FROM {}",
            )
        ]
    database = sql.Identifier(conn.info.dbname)
    steps.append(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, role))
    failure = ""
    for step in steps:
        try:
            conn.execute(step)
        except psycopg.Error as error:
            failure = _as_vault_says(error)
    if failure:
        raise DatabaseTrouble(f"could not perform all revocation statements: {failure}")
    try:
        conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
    except psycopg.Error as error:
        raise DatabaseTrouble(_as_vault_says(error)) from None
