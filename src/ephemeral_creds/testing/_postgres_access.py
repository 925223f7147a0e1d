"""A PostgreSQL that is there already, whoever runs it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import psycopg
from psycopg.conninfo import make_conninfo

from ephemeral_creds._values import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        parameters: how to connect, by libpq's names: ``sslmode``, ``sslrootcert`` …
    """

    def __init__(
        self,
        host: str,
        port: int,
        superuser: str,
        password: Secret,
        dbname: str = "postgres",
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.host, self.port = host, port
        self.superuser, self.password = superuser, password
        self.dbname = dbname
        self.parameters = dict(parameters or {})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port}>"

    @property
    def version(self) -> str:
        """For example ``PostgreSQL 18.6``; asks the running server."""
        with self.admin() as conn:
            return f"PostgreSQL {conn.info.parameter_status('server_version')}"

    def conninfo(self, dbname: str | None = None) -> str:
        """Return a connection string that names no user and no password."""
        where = f"host={self.host} port={self.port}"
        return make_conninfo(where, dbname=dbname or self.dbname, **self.parameters)

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
        conninfo = make_conninfo(f"connect_timeout=10 {self.conninfo(dbname)}", user=username)
        return psycopg.connect(conninfo, password=word, autocommit=True)

    def roles(self, prefix: str = "v-") -> list[str]:
        """Return the names of the roles that start with `prefix`, Vault's own by default."""
        with closing(self.admin()) as conn:
            rows = conn.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY rolname",
                [prefix],
            ).fetchall()
        return [name for (name,) in rows]
