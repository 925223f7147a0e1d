"""A PostgreSQL that is there already, whoever runs it."""

from __future__ import annotations

from contextlib import closing
from typing import Protocol

import psycopg

from ephemeral_creds._values import Secret

__all__ = ["PostgresAccess", "PostgresLike"]


class PostgresLike(Protocol):
    """What a `DatabaseEngine` has to know of a PostgreSQL: a container's, for example."""

    @property
    def host(self) -> str:
        """Where it is, for Vault too."""
        ...

    @property
    def port(self) -> int:
        """Its TCP port."""
        ...

    @property
    def superuser(self) -> str:
        """Name of a role that may create roles."""
        ...

    @property
    def password(self) -> Secret:
        """That role's password."""
        ...


class PostgresAccess:
    """A PostgreSQL by its address and a superuser.

    Attributes:
        host: where it is.
        port: its TCP port.
        superuser: name of the role that may do everything.
        password: the superuser's password.
        dbname: the database that is meant where none is named.
    """

    def __init__(
        self, host: str, port: int, superuser: str, password: Secret, dbname: str = "postgres"
    ) -> None:
        self.host, self.port = host, port
        self.superuser, self.password = superuser, password
        self.dbname = dbname

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port}>"

    @property
    def version(self) -> str:
        """For example ``PostgreSQL 18.6``; asks the running server."""
        with self.admin() as conn:
            return f"PostgreSQL {conn.info.parameter_status('server_version')}"

    def conninfo(self, dbname: str | None = None) -> str:
        """Return a connection string that names no user and no password."""
        return f"host={self.host} port={self.port} dbname={dbname or self.dbname}"

    def admin(self, dbname: str | None = None) -> psycopg.Connection:
        """Return a new connection of the superuser, in autocommit mode; close it yourself."""
        return self.login(self.superuser, self.password, dbname)

    def login(
        self, username: str, password: Secret | str, dbname: str | None = None
    ) -> psycopg.Connection:
        """Return a new connection of any role, in autocommit mode; close it yourself.

        Raises:
            psycopg.OperationalError: the login was refused.
        """
        word = password.reveal() if isinstance(password, Secret) else password
        return psycopg.connect(
            self.conninfo(dbname),
            user=username,
            password=word,
            autocommit=True,
            connect_timeout=10,
        )

    def roles(self, prefix: str = "v-") -> list[str]:
        """Return the names of the roles that start with `prefix`, Vault's own by default."""
        with closing(self.admin()) as conn:
            rows = conn.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY rolname",
                [prefix],
            ).fetchall()
        return [name for (name,) in rows]
