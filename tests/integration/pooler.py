"""A PgBouncer in front of a PostgreSQL, where the machine has one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.testing._owned import OwnedProcess
from ephemeral_creds.testing._process import free_port, private_file, unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import PostgresServer

__all__ = ["POOLER", "pgbouncer"]

_START_TIMEOUT = 30.0
POOLER, _PASSWORD = "pooler", "pooler-password"
"""Whom PgBouncer asks for other roles' passwords as."""


@contextmanager
def pgbouncer(postgres: PostgresServer, *, upstream: str = "", **settings: str) -> Iterator[str]:
    """Run a PgBouncer that learns users through ``auth_query``; yield a conninfo for it.

    Args:
        postgres: where it connects to.
        upstream: more of its entry for all databases: ``user=…`` for example.
        settings: its settings of the section ``[pgbouncer]``.
    """
    program = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no pgbouncer here (Debian's package of that name)")
    port, run_as = free_port(), unprivileged_user()
    with ExitStack() as stack:
        admin = stack.enter_context(closing(postgres.admin()))
        admin.execute(f"CREATE ROLE {POOLER} LOGIN SUPERUSER PASSWORD '{_PASSWORD}'".encode())
        stack.callback(admin.execute, f"DROP ROLE {POOLER}".encode())
        process = OwnedProcess("pgbouncer", lambda: None)
        process.make_folder()
        stack.callback(process.remove)
        users = private_file(process.folder / "users", f'"{POOLER}" "{_PASSWORD}"\n')
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "auth_user": POOLER,
        } | settings
        database = f"* = host={postgres.host} port={postgres.port} {upstream}"
        text = "\n".join(
            ["[databases]", database, "[pgbouncer]", *(f"{k} = {v}" for k, v in lines.items())]
        )
        config = private_file(process.folder / "pgbouncer.ini", f"{text}\n")
        for path in (process.folder, users, config):
            os.chown(path, run_as.get("user", -1), run_as.get("group", -1))
        process.spawn([program, "--quiet", config], output="log", run_as=run_as)
        # Its connections to PostgreSQL end with it.
        stack.callback(process.end, (signal.SIGINT, 10.0))
        conninfo = f"host=127.0.0.1 port={port} dbname=postgres"
        _wait_for(conninfo, process)
        yield conninfo


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
