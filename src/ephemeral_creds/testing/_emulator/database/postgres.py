"""What the database engine does to PostgreSQL: it logs in, runs templates and drops roles."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Connection", "DatabaseTrouble", "drop_as_vault_does", "run"]

_CONNECT_TIMEOUT = 20  # seconds; Vault itself has no limit but that of the request


class DatabaseTrouble(Exception):
    """PostgreSQL refused, or is away."""


@dataclass(slots=True)
class Connection:
    """How Vault itself logs in, and who may have roles made by it."""

    url: str
    username: str
    password: str = field(repr=False)
    allowed_roles: list[str] = field(default_factory=list)
    verify: bool = True
    # Vault's plugin serves one statement at a time for each connection configured.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self) -> Iterator[psycopg.Connection]:
        """Log in, when it is our turn.

        Raises:
            DatabaseTrouble: PostgreSQL is away or does not let us in.
        """
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


def run(conn: psycopg.Connection, statements: list[str], values: dict[str, str]) -> None:
    """Run templates in one transaction.

    Raises:
        DatabaseTrouble: PostgreSQL refuses; nothing has changed.
    """
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


def drop_as_vault_does(conn: psycopg.Connection, username: str) -> None:
    """Take each right away, going on after failures; drop the role only if none failed.

    Raises:
        DatabaseTrouble: PostgreSQL refuses a part of it.
    """
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
