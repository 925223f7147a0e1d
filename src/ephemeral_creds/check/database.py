"""A connection of the checked role, and queries about that role."""

from __future__ import annotations

import ipaddress
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.diagnosis import Diagnosis, FailedLogin, Verdict
from ephemeral_creds.pool.login import acting_as
from ephemeral_creds.pool.target import credentials_for

if TYPE_CHECKING:
    from typing import Any, Self

    from ephemeral_creds import Credentials

__all__ = ["Line", "LoginFailed", "Rights", "RoleSession", "same_role"]

_NAME_LENGTH = 63  # bytes, of NAMEDATALEN
_LOOKS = 5
_CONNECT_TIMEOUT = 10  # seconds; an operator, or the start of a pod, is waiting

_VALID_UNTIL = "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s"
_POWERS = """
    SELECT bool_or(rolsuper), bool_or(rolcreaterole), bool_or(rolcreatedb),
           bool_or(rolreplication), bool_or(rolbypassrls)
    FROM pg_roles WHERE rolname IN (%s, current_user)
"""
_MEMBER_OF = """
    SELECT r.rolname FROM pg_auth_members m
    JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
    WHERE u.rolname = %s ORDER BY 1
"""
_NOT_INHERITED = """
    SELECT r.rolname FROM pg_auth_members m
    JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
    WHERE u.rolname = %s AND NOT pg_has_role(u.oid, r.oid, 'USAGE') ORDER BY 1
"""
_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
# A right on one column is a right as well.
_TABLES = f"""
    SELECT count(*),
           count(*) FILTER (WHERE u AND has_any_column_privilege(c.oid, 'SELECT')),
           count(*) FILTER (WHERE u AND has_any_column_privilege(c.oid, 'INSERT')),
           count(*) FILTER (WHERE u AND has_any_column_privilege(c.oid, 'UPDATE')),
           count(*) FILTER (WHERE u AND has_table_privilege(c.oid, 'DELETE'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
         LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE') AS u) usage
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS}
"""  # noqa: S608 - put together of constants
# nextval() in a column's default; identity columns need no right on their sequence.
_BLOCKED_SEQUENCES = f"""
    SELECT DISTINCT s.oid::regclass::text
    FROM pg_attrdef a
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
                    AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = d.refobjid
    JOIN pg_class c ON c.oid = a.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND has_schema_privilege(n.oid, 'USAGE')
      AND has_any_column_privilege(c.oid, 'INSERT')
      AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
    ORDER BY 1
"""  # noqa: S608 - put together of constants
_MAY_CREATE_IN = """
    SELECT nspname FROM pg_namespace
    WHERE has_schema_privilege(oid, 'CREATE') AND nspname !~ '^pg_' ORDER BY 1
"""
_GSS = "SELECT coalesce(bool_or(encrypted), false) FROM pg_stat_gssapi WHERE pid = pg_backend_pid()"
# PostgreSQL applies those of the role that logs in, and of no other one that it acts as then. Its
# view does not have settings with custom names.
_LOST_SETTINGS = """
    SELECT DISTINCT name FROM pg_db_role_setting
    CROSS JOIN unnest(setconfig) entry CROSS JOIN split_part(entry, '=', 1) name
    LEFT JOIN pg_settings USING (name)
    WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND name <> 'role'
      AND CASE WHEN source IS NULL AND position('.' in name) > 0
               THEN current_setting(name, true) IS NULL
               ELSE coalesce(source, '') NOT IN ('user', 'database user', 'client', 'session') END
    ORDER BY 1
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
    """A login to PostgreSQL failed; the text is the server's or libpq's own.

    Attributes:
        verdict: why.
    """

    def __init__(self, text: str, verdict: Verdict | None = None) -> None:
        super().__init__(text)
        self.verdict = verdict or Verdict()


@dataclass(frozen=True, slots=True)
class Line:
    """The network path of a connection.

    Attributes:
        host: the host, or the folder of a socket.
        address: the host's IP address; empty for a socket.
        tls: whether it is encrypted by TLS.
        gss: whether it is encrypted by GSSAPI.
        sslmode: libpq's setting of that name.
    """

    host: str
    address: str
    tls: bool
    gss: bool
    sslmode: str

    @property
    def local(self) -> bool:
        """Whether it stays within this machine."""
        if not self.address:
            return True
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role is and may do.

    Attributes:
        powers: what lets it do more than tables are for: ``superuser``, ``createrole`` …
        member_of: the roles that it is a member of.
        not_inherited: those of them whose rights it has only after ``SET ROLE``.
        tables: how many tables and views there are.
        may: on how many of them it may do what.
        blocked_sequences: those that an ``INSERT`` which it may do needs, and it may not use.
        creates_in: the schemas in which it may create objects.
    """

    powers: tuple[str, ...]
    member_of: tuple[str, ...]
    not_inherited: tuple[str, ...]
    tables: int
    may: dict[str, int]
    blocked_sequences: tuple[str, ...]
    creates_in: tuple[str, ...]

    @property
    def stable_owner(self) -> str | None:
        """The one role that stays and that this one is a member of, if it is one."""
        stable = [name for name in self.member_of if not name.startswith("pg_")]
        return stable[0] if len(stable) == 1 else None


class RoleSession:
    """A connection of the role that is checked.

    Args:
        conninfo: where PostgreSQL is.
        credentials: what to log in with.
        session_role: the role to act as, if another one.

    Raises:
        LoginFailed: the login failed.
        ConfigurationError: libpq cannot read the connection string, or it lets a token be sent
            without TLS.
    """

    def __init__(
        self, conninfo: str, credentials: Credentials, session_role: str | None = None
    ) -> None:
        self.username = credentials.username
        self._conninfo = conninfo
        self._credentials = credentials
        self._session_role = session_role
        self._connection = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(psycopg.Error):
            self._connection.close()

    @property
    def sends_token(self) -> bool:
        """Whether the password is a token, which a login sends as it is."""
        return self._credentials.requires_tls

    @property
    def where(self) -> str:
        """The database and the server."""
        info = self._connection.info
        return f"database {info.dbname!r} at {info.host}:{info.port}"

    @property
    def line(self) -> Line:
        """The network path of the connection."""
        pgconn, info = self._connection.pgconn, self._connection.info
        (sslmode,) = (option.val or b"" for option in pgconn.info if option.keyword == b"sslmode")
        tls = bool(pgconn.ssl_in_use)
        return Line(
            host=info.host,
            address=info.hostaddr,
            tls=tls,
            # It is never both, and not everything that speaks PostgreSQL's protocol has that view.
            gss=not tls and self._row(_GSS)[0] is True,
            sslmode=sslmode.decode(),
        )

    def acts_as(self) -> str:
        """Return the role whose rights count."""
        return str(self._row("SELECT current_user")[0])

    def logged_in_as(self) -> str:
        """Return the role that PostgreSQL has authenticated."""
        return str(self._row("SELECT session_user")[0])

    def lost_settings(self) -> tuple[str, ...]:
        """Name the settings of the role that it acts as, and not of its login, that do not hold."""
        return self._column(_LOST_SETTINGS)

    def valid_until(self) -> float:
        """Return the instant, Unix time of PostgreSQL's clock, from which logins are refused.

        Returns:
            ``inf`` without a VALID UNTIL.
        """
        (until,) = self._row(_VALID_UNTIL, self.username)
        return math.inf if until is None else float(str(until))

    def clock(self) -> tuple[float, float]:
        """Return PostgreSQL's clock, Unix time, and ours in the middle of asking."""
        begun = time.time()
        row = self._row("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(str(row[0])), (begun + time.time()) / 2

    def rights(self) -> Rights:
        """Return what the role may do, or the one that it acts as."""
        powers = self._row(_POWERS, self.username)
        names = ("superuser", "createrole", "createdb", "replication", "bypassrls")
        tables, *counts = (int(str(value)) for value in self._row(_TABLES))
        return Rights(
            powers=tuple(name for name, has in zip(names, powers, strict=True) if has),
            member_of=self._column(_MEMBER_OF, self.username),
            not_inherited=self._column(_NOT_INHERITED, self.username),
            tables=tables,
            may=dict(zip(("SELECT", "INSERT", "UPDATE", "DELETE"), counts, strict=True)),
            blocked_sequences=self._column(_BLOCKED_SEQUENCES),
            creates_in=self._column(_MAY_CREATE_IN),
        )

    @property
    def ended(self) -> bool:
        """Whether the server has ended the session."""
        return self._connection.closed

    def left_behind(self) -> str | None:
        """Say what remains of a role that should be dropped; ``None`` if nothing does.

        A session outlives its role, and may still read the catalogues. If the session
        ended with the role, another login is tried.

        Raises:
            LoginFailed: neither shows whether the role is left.
        """
        # Vault retries a revocation that failed, which ends the session of the next attempt too.
        for _ in range(_LOOKS):
            if not self.ended:
                with suppress(psycopg.OperationalError):
                    return self._what_is_left()
            try:
                self._connection = self._connect()
            except LoginFailed as refusal:
                return _left_by(refusal)
        raise LoginFailed("PostgreSQL ends each session of the check at once")

    def _what_is_left(self) -> str | None:
        row = self._connection.execute(_REMAINS, [self.username]).fetchone()
        if row is None:
            return None
        objects, grants, elsewhere = (int(str(value)) for value in row)
        text = f"with {grants} grants and {objects} objects of its own"
        return f"{text}, {elsewhere} of these in other databases" if elsewhere else text

    def _row(self, query: str, *parameters: str) -> tuple[object, ...]:
        # The queries are the constants above.
        row = self._connection.execute(query.encode(), list(parameters)).fetchone()
        if row is None:
            raise psycopg.errors.UndefinedObject(f"there is no role {self.username!r}")
        return row

    def _column(self, query: str, *parameters: str) -> tuple[str, ...]:
        rows = self._connection.execute(query.encode(), list(parameters)).fetchall()
        return tuple(str(row[0]) for row in rows)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        options: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT}
        credentials = self._credentials
        problem: Exception
        try:
            if self._session_role:
                options = acting_as(self._session_role, self._conninfo, options)
            credentials = credentials_for(self._conninfo, options, credentials)
            return psycopg.connect(
                self._conninfo,
                user=self.username,
                password=credentials.password.reveal(),
                autocommit=True,
                application_name="ephemeral-creds check",
                **options,
            )
        except psycopg.OperationalError as error:
            failed = FailedLogin(error, self._conninfo, options, credentials)
            verdict = Diagnosis(_CONNECT_TIMEOUT).explain(failed)
            problem = LoginFailed(" ".join(str(error).split()), verdict)
        except psycopg.Error:
            problem = ConfigurationError("libpq cannot parse the connection string")
        # Not chained: psycopg's own error holds the password.
        raise problem


def same_role(one: str, other: str) -> bool:
    """Whether two names mean one role of PostgreSQL, which cuts long ones off."""
    return one.encode()[:_NAME_LENGTH] == other.encode()[:_NAME_LENGTH]


def _left_by(refusal: LoginFailed) -> str | None:
    """Say what remains of a role whose login was refused; ``None`` if nothing does."""
    if refusal.verdict.reason is not LoginFailure.CREDENTIALS:
        raise refusal
    # With `trust` in pg_hba.conf, a dropped role is not asked for a password. The SQLSTATE is the
    # same as for NOLOGIN: only the server's message differs.
    may_not_log_in = refusal.verdict.sqlstate == "28000" and "does not exist" not in str(refusal)
    return "without a login" if may_not_log_in else None
