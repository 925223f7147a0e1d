"""The server that is measured against, roles that come and go in it, and slow connects."""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool

from ephemeral_creds import Credentials, FixedProvider, RotatingConnectionPool, Secret, SystemClock
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from ephemeral_creds import Grant
    from ephemeral_creds.testing import PostgresServer

__all__ = [
    "Census",
    "Login",
    "RoleProvider",
    "Roles",
    "SlowConnection",
    "fixed_pool",
    "plain_pool",
    "slow_class",
]


class Census:
    """The most connections that were open, or being opened, at the same time."""

    def __init__(self) -> None:
        self.peak = 0
        self._lock = threading.Lock()
        self._opening = 0
        self._open: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()

    def opening(self) -> None:
        """A connect is about to start."""
        with self._lock:
            self._opening += 1
            total = self._opening + sum(not conn.closed for conn in self._open)
            self.peak = max(self.peak, total)

    def ended(self, conn: psycopg.Connection[Any] | None) -> None:
        """It succeeded, or failed if there is no connection."""
        with self._lock:
            self._opening -= 1
            if conn is not None:
                self._open.add(conn)


class SlowConnection(psycopg.Connection[Any]):
    """A connection that takes `delay` seconds longer to open, and is counted.

    A sleep, not a proxy: what is added to the connect must not also be added to each query.
    """

    delay: ClassVar[float] = 0.0
    census: ClassVar[Census] = Census()

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> SlowConnection:
        """Sleep, then connect."""
        cls.census.opening()
        conn = None
        try:
            time.sleep(cls.delay)
            conn = super().connect(conninfo, **kwargs)
        finally:
            cls.census.ended(conn)
        return conn


def slow_class() -> type[SlowConnection]:
    """Return a class of slow connections with a delay and a census of its own."""
    return type("Slow", (SlowConnection,), {"census": Census(), "delay": 0.0})


class Roles:
    """Makes roles, as a provider does, and drops them."""

    def __init__(self, server: PostgresServer, prefix: str) -> None:
        self._prefix = prefix
        self._admin = server.admin()
        self._lock = threading.Lock()

    def mint(self, number: int) -> Credentials:
        """Create a role and return how to log in as it."""
        name, password = f"{self._prefix}_{number}", secrets.token_urlsafe(16)
        self._run("CREATE ROLE {} LOGIN PASSWORD {}", name, sql.Literal(password))
        return Credentials(name, Secret(password))

    def drop(self, name: str) -> None:
        """Drop a role."""
        self._run("DROP ROLE IF EXISTS {}", name)

    def close(self) -> None:
        """Close the administrator's connection."""
        self._admin.close()

    def _run(self, statement: LiteralString, name: str, *values: sql.Literal) -> None:
        with self._lock:
            self._admin.execute(sql.SQL(statement).format(sql.Identifier(name), *values))


class RoleProvider(ScriptedProvider):
    """A provider whose credentials are roles of a real server."""

    def __init__(self, roles: Roles) -> None:
        super().__init__(SystemClock(), mint=roles.mint)
        self._roles = roles

    def revoke(self, grant: Grant) -> None:
        """Drop the role."""
        super().revoke(grant)
        self._roles.drop(grant.credentials.username)


class Login(NamedTuple):
    """How to log in; goes to other processes, so its password is in the clear."""

    conninfo: str
    user: str
    password: str

    @classmethod
    def of(cls, server: PostgresServer, credentials: Credentials | None = None) -> Login:
        """Return a role's, the superuser's by default."""
        role = credentials or Credentials(server.superuser, server.password)
        return cls(server.conninfo(), role.username, role.password.reveal())

    def arguments(self) -> dict[str, Any]:
        """Return what psycopg's own pool is given, in autocommit mode."""
        return {"user": self.user, "password": self.password, "autocommit": True}


def plain_pool(login: Login, size: int) -> ConnectionPool[Any]:
    """Return psycopg's own pool, open and full."""
    pool = ConnectionPool(login.conninfo, kwargs=login.arguments(), min_size=size, open=True)
    pool.wait()
    return pool


def fixed_pool(login: Login, size: int) -> RotatingConnectionPool[Any]:
    """Return our pool with credentials that do not change, open and full."""
    pool = RotatingConnectionPool(
        FixedProvider(login.user, login.password),
        login.conninfo,
        kwargs={"autocommit": True},
        min_size=size,
    )
    pool.open(wait=True)
    return pool
