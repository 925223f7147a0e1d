"""What PostgreSQL says of the role, over a connection of that role."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ephemeral_creds import Credentials

__all__ = ["LoginFailed", "Rights", "RoleSession"]

_CONNECT_TIMEOUT = 10  # seconds; a person, or the start of a pod, is waiting

_ROLE = """
    SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
           extract(epoch FROM rolvaliduntil)::float8, extract(epoch FROM clock_timestamp())::float8
    FROM pg_roles WHERE rolname = %s
"""
_MEMBER_OF = """
    SELECT r.rolname FROM pg_auth_members m
    JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
    WHERE u.rolname = %s ORDER BY 1
"""
_TABLES = """
    SELECT count(*),
           count(*) FILTER (WHERE u AND has_table_privilege(c.oid, 'SELECT')),
           count(*) FILTER (WHERE u AND has_table_privilege(c.oid, 'INSERT')),
           count(*) FILTER (WHERE u AND has_table_privilege(c.oid, 'UPDATE')),
           count(*) FILTER (WHERE u AND has_table_privilege(c.oid, 'DELETE'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
         LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE') AS u) usage
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
_MAY_CREATE_IN = """
    SELECT nspname FROM pg_namespace
    WHERE has_schema_privilege(oid, 'CREATE') AND nspname !~ '^pg_' ORDER BY 1
"""
_REMAINS = """
    SELECT count(*) FILTER (WHERE s.deptype = 'o'), count(*) FILTER (WHERE s.deptype = 'a'),
           count(*) FILTER (WHERE s.dbid NOT IN
               (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
    FROM pg_roles r LEFT JOIN pg_shdepend s
      ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
    WHERE r.rolname = %s GROUP BY r.oid
"""


class LoginFailed(Exception):
    """PostgreSQL could not be logged in to; the text is the server's or libpq's own."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role is and may do.

    Attributes:
        powers: what lets it do more than tables are for: ``superuser``, ``createrole`` …
        member_of: the roles whose rights it has.
        tables: how many tables and views there are.
        may: on how many of them it may do what.
        creates_in: the schemas in which it may create objects.
    """

    powers: tuple[str, ...]
    member_of: tuple[str, ...]
    tables: int
    may: dict[str, int]
    creates_in: tuple[str, ...]


class RoleSession:
    """A connection of the role that is checked.

    Args:
        conninfo: where PostgreSQL is.
        credentials: what to log in with.

    Raises:
        LoginFailed: it could not be done.
        ConfigurationError: the connection string is none.
    """

    def __init__(self, conninfo: str, credentials: Credentials) -> None:
        self.username = credentials.username
        self._log_in = lambda: _connected(conninfo, credentials)
        problem, self._connection = self._log_in()
        if problem is not None:
            raise problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(psycopg.Error):
            self._use().close()

    @property
    def where(self) -> str:
        """The database and the server."""
        info = self._use().info
        return f"database {info.dbname!r} at {info.host}:{info.port}"

    def valid_until(self) -> float:
        """Return the instant, Unix time of PostgreSQL's clock, from which logins are refused.

        Returns:
            ``inf`` where there is none.
        """
        row = self._row(_ROLE, self.username)
        return math.inf if row[5] is None else float(str(row[5]))

    def clock(self) -> tuple[float, float]:
        """Return PostgreSQL's clock, Unix time, and ours in the middle of asking."""
        begun = time.time()
        row = self._row("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(str(row[0])), (begun + time.time()) / 2

    def rights(self) -> Rights:
        """Return what the role may do."""
        role = self._row(_ROLE, self.username)
        names = ("superuser", "createrole", "createdb", "replication", "bypassrls")
        tables, *counts = (int(str(value)) for value in self._row(_TABLES))
        return Rights(
            powers=tuple(name for name, has in zip(names, role, strict=False) if has),
            member_of=self._column(_MEMBER_OF, self.username),
            tables=tables,
            may=dict(zip(("SELECT", "INSERT", "UPDATE", "DELETE"), counts, strict=True)),
            creates_in=self._column(_MAY_CREATE_IN),
        )

    @property
    def ended(self) -> bool:
        """Whether the server has ended the session."""
        return self._use().closed

    def left_behind(self) -> str | None:
        """Say what is left of the role after it was to be dropped; ``None`` where it is gone.

        A session outlives its role, and may still read the catalogues. Where the session was
        ended along with the role, another login tells.

        Raises:
            LoginFailed: it does not tell.
        """
        if not self.ended:
            with suppress(psycopg.OperationalError):
                return self._what_is_left()
        problem, connection = self._log_in()
        if connection is not None:
            self._connection = connection
            return self._what_is_left()
        refusal = str(problem)
        if "not permitted to log in" in refusal:
            return "without a login"
        if "authentication failed" in refusal or "does not exist" in refusal:
            return None
        raise LoginFailed(refusal)

    def _what_is_left(self) -> str | None:
        row = self._use().execute(_REMAINS, [self.username]).fetchone()
        if row is None:
            return None
        objects, grants, elsewhere = (int(str(value)) for value in row)
        text = f"with {grants} grants and {objects} objects of its own"
        return f"{text}, {elsewhere} of these in other databases" if elsewhere else text

    def _use(self) -> psycopg.Connection[tuple[object, ...]]:
        if self._connection is None:
            raise RuntimeError("not connected")
        return self._connection

    def _row(self, query: str, *parameters: str) -> tuple[object, ...]:
        # The queries are the constants above.
        row = self._use().execute(query.encode(), list(parameters)).fetchone()
        if row is None:
            raise psycopg.errors.UndefinedObject(f"there is no role {self.username!r}")
        return row

    def _column(self, query: str, *parameters: str) -> tuple[str, ...]:
        rows = self._use().execute(query.encode(), list(parameters)).fetchall()
        return tuple(str(row[0]) for row in rows)


def _connected(
    conninfo: str, credentials: Credentials
) -> tuple[Exception | None, psycopg.Connection[tuple[object, ...]] | None]:
    """Return a connection or what is wrong; psycopg's own error would hold the password."""
    try:
        return None, psycopg.connect(
            conninfo,
            user=credentials.username,
            password=credentials.password.reveal(),
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT,
            application_name="ephemeral-creds check",
        )
    except psycopg.OperationalError as error:
        return LoginFailed(" ".join(str(error).split())), None
    except psycopg.Error:
        return ConfigurationError("the connection string is not one that libpq understands"), None
