"""A PgBouncer in front of a PostgreSQL, where the machine has one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.testing._process import (
    OwnedProcess,
    free_port,
    private_file,
    unprivileged_user,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import PostgresServer

__all__ = ["POOLER", "pgbouncer", "pgbouncer_version"]

_START_TIMEOUT = 30.0
POOLER, _PASSWORD = "pooler", "pooler-password"
"""Whom PgBouncer asks for other roles' passwords as."""


class _PgBouncer(OwnedProcess):
    _NAME = "pgbouncer"

    def __init__(self, program: str, config: str) -> None:
        super().__init__()
        self._program, self._config = program, config

    def _bring_up(self) -> None:
        home, run_as = self._make_folder(), unprivileged_user()
        users = private_file(home / "users", f'"{POOLER}" "{_PASSWORD}"\n')
        config = private_file(home / "pgbouncer.ini", self._config)
        for path in (home, users, config):
            os.chown(path, run_as.get("user", -1), run_as.get("group", -1))
        self._spawn([self._program, "--quiet", config], run_as=run_as)


@contextmanager
def pgbouncer(postgres: PostgresServer, *, upstream: str = "", **settings: str) -> Iterator[str]:
    """Run a PgBouncer that learns users through ``auth_query``; yield a conninfo for it.

    Args:
        postgres: where it connects to.
        upstream: more of its entry for all databases: ``user=…`` for example.
        settings: its settings of the section ``[pgbouncer]``.
    """
    program = _program()
    port = free_port()
    with ExitStack() as stack:
        admin = stack.enter_context(closing(postgres.admin()))
        admin.execute(f"CREATE ROLE {POOLER} LOGIN SUPERUSER PASSWORD '{_PASSWORD}'".encode())
        stack.callback(admin.execute, f"DROP ROLE {POOLER}".encode())
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": "users",
            "auth_user": POOLER,
        } | settings
        database = f"* = host={postgres.host} port={postgres.port} {upstream}"
        text = "\n".join(
            ["[databases]", database, "[pgbouncer]", *(f"{k} = {v}" for k, v in lines.items())]
        )
        # Its connections to PostgreSQL end with it.
        process = stack.enter_context(_PgBouncer(program, f"{text}\n"))
        conninfo = f"host=127.0.0.1 port={port} dbname=postgres"
        _wait_for(conninfo, process)
        yield conninfo


def _program() -> str:
    """Return the program that ``EPHEMERAL_CREDS_PGBOUNCER`` names, or the system's."""
    found = os.environ.get("EPHEMERAL_CREDS_PGBOUNCER") or shutil.which(
        "pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        pytest.skip("no pgbouncer here (Debian's package of that name)")
    return found


def pgbouncer_version() -> tuple[int, ...]:
    """Return the version of the PgBouncer that `pgbouncer` runs."""
    said = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout)
    assert found is not None, said.stdout
    return tuple(int(number) for number in found.groups())


def _wait_for(conninfo: str, process: OwnedProcess) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            psycopg.connect(conninfo, user=POOLER, password=_PASSWORD).close()
        except psycopg.OperationalError as error:
            if process.running and time.monotonic() < give_up_at:
                time.sleep(0.02)
                continue
            log = (process.folder / "log").read_text(errors="replace")
            raise RuntimeError(f"PgBouncer did not start: {error}; it says: {log}") from None
        return
