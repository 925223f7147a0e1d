"""Programs that tests run in processes of their own, and what those programs import.

A program finds its PostgreSQL, and the prefix of the roles that it may make, in its environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    Credentials,
    RefreshPolicy,
    RotatingConnectionPool,
    RotatingNullConnectionPool,
    Secret,
    SystemClock,
)
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from typing import Any

    from ephemeral_creds import Grant
    from ephemeral_creds.testing import PostgresServer

NOISE = (
    "Traceback",
    "Exception ignored",
    "ResourceWarning",
    "was destroyed but it is pending",
    "was never awaited",
    "housekeeping failed",
)
"""What a process that ends properly does not write to stderr."""

_WIDE = "EPHEMERAL_TEST_CONNINFO", "EPHEMERAL_TEST_ADMIN", "EPHEMERAL_TEST_PREFIX"
_HEAD = """\
import asyncio, os, sys, threading
from scripts import *
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float
    """From its first line of output to its end."""

    @property
    def noise(self) -> list[str]:
        return [line for line in self.err.splitlines() if any(word in line for word in NOISE)]


class Program:
    """A program that runs, and that says ``up`` when it is ready to end."""

    def __init__(self, postgres: PostgresServer, prefix: str, body: str) -> None:
        environment = environment_of(postgres, prefix)
        self.prefix = prefix
        self._first = ""
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", _HEAD + body],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminate(self) -> None:
        """Send it SIGTERM when it is ready to end."""
        self._first = self._line()
        self._process.terminate()

    def end(self, patience: float = 60.0) -> Ended:
        """Wait for its end."""
        try:
            first = self._first or self._line()
            since = time.monotonic()
            out, err = self._process.communicate(timeout=patience)
        finally:
            self._process.kill()
        return Ended(self._process.returncode, first + out, err, time.monotonic() - since)

    def _line(self) -> str:
        """Read a line and nothing after it: `communicate` does not see what was read ahead."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._process.stdout.fileno(), 1)):
            line += byte
        return line.decode()


def environment_of(postgres: PostgresServer, prefix: str) -> dict[str, str]:
    """Return the environment in which programs find this module and their PostgreSQL."""
    admin = f"{postgres.conninfo()} user=postgres password={postgres.password.reveal()}"
    values = postgres.conninfo(), admin, prefix
    environment = os.environ | dict(zip(_WIDE, values, strict=True))
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    return environment


def run(postgres: PostgresServer, prefix: str, body: str) -> Ended:
    """Run a program to its end."""
    return Program(postgres, prefix, textwrap.dedent(body)).end()


# --- For the programs ------------------------------------------------------------------------

CONNINFO, _ADMIN, PREFIX = (os.environ.get(name, "") for name in _WIDE)


class Roles(ScriptedProvider):
    """Mints ``<prefix><tag>_1`` … It keeps no connection, so that a fork inherits none.

    `end_sessions` says whether a revocation ends the sessions of the role as well.
    """

    def __init__(self, tag: str = "", *, end_sessions: bool = False) -> None:
        super().__init__(SystemClock(), mint=self._mint)
        self.prefix = PREFIX + tag
        self.end_sessions = end_sessions

    def _mint(self, number: int) -> Credentials:
        name, password = f"{self.prefix}_{number}", f"minted-password-{self.prefix}-{number}"
        _do("CREATE ROLE {} LOGIN PASSWORD {}", sql.Identifier(name), sql.Literal(password))
        return Credentials(name, Secret(password))

    def revoke(self, grant: Grant) -> None:
        super().revoke(grant)
        name = grant.credentials.username
        if self.end_sessions:
            _do(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = {}",
                sql.Literal(name),
            )
        _do("DROP ROLE {}", sql.Identifier(name))


def roles_of_process() -> Roles:
    """Mint roles that are named by this process, and whose sessions end with them."""
    return Roles(f"-{os.getpid()}", end_sessions=True)


AT_ONCE = RefreshPolicy(mint_interval=0.0, retry_initial=0.05)
"""Mints whenever it is asked to."""


def _do(statement: str, *values: sql.Composable) -> None:
    with closing(psycopg.connect(_ADMIN, autocommit=True)) as admin:
        admin.execute(sql.SQL(statement).format(*values))


def sessions(tag: str = "") -> dict[str, int]:
    """Return how many sessions each role has."""
    with closing(psycopg.connect(_ADMIN, autocommit=True)) as admin:
        rows = admin.execute(
            "SELECT usename::text, count(*)::int FROM pg_stat_activity"
            " WHERE starts_with(usename, %s) GROUP BY 1",
            [PREFIX + tag],
        ).fetchall()
    return dict(rows)


def make(provider: Any = None, kind: str = "sync", **options: Any) -> Any:
    """Make a pool of two connections, whose events are not logged; "null" keeps none."""
    pools: dict[str, Any] = {
        "sync": RotatingConnectionPool,
        "async": AsyncRotatingConnectionPool,
        "null": RotatingNullConnectionPool,
    }
    provider = provider or Roles()
    if isinstance(provider, ScriptedProvider):
        options = {"observers": (), "refresh": AT_ONCE} | options
    return pools[kind](provider, CONNINFO, **{"min_size": 0 if kind == "null" else 2} | options)


def up() -> None:
    """Say that the end may come."""
    print("up", flush=True)


def exit_status(child: int) -> int:
    """Wait for a child and return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
