"""The commands that run or feed other programs, in processes of their own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from minting import PATIENCE
from psycopg import sql

from ephemeral_creds.testing._binaries import find_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from canary import Canary
    from ephemeral_creds.testing import DatabaseEngine, PostgresServer

__all__ = [
    "COMMAND",
    "HURRIED",
    "SAY",
    "Command",
    "Source",
    "client",
    "environment",
    "hurried",
    "run",
    "vault_url",
]

COMMAND = (sys.executable, "-m", "ephemeral_creds")

_HURRIED = f"""
import sys
from dataclasses import replace
sys.path.insert(0, {str(Path(__file__).parent)!r})
from handovers import HURRIED
from ephemeral_creds.cli._agent import run_agent
from ephemeral_creds.cli._agent_options import AgentOptions
from ephemeral_creds.cli._arguments import parse
from ephemeral_creds.cli._exec import run_exec
from ephemeral_creds.cli._exec_options import ExecOptions, split_command
own, command = split_command(sys.argv[2:])
parsed, refresh = parse(own), replace(HURRIED, renew_at=float(sys.argv[1]))
if command:
    sys.exit(run_exec(ExecOptions.of(parsed, command), refresh=refresh))
sys.exit(run_agent(AgentOptions.of(parsed), refresh=refresh))
"""


def hurried(renew_at: float = 0.5) -> tuple[str, ...]:
    """Return the same for credentials that live for seconds."""
    return (sys.executable, "-c", _HURRIED, str(renew_at))


HURRIED = hurried()

SAY = """
import os, signal, sys, time
def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())
def stay():
    while True:
        time.sleep(0.1)
"""
"""How programs whose signals are tested print and wait, in handlers and at any moment.

The handler of a signal that comes before print() returns cannot print itself ("reentrant call
inside <_io.BufferedWriter>"), and that of one just before signal.pause() runs after the next.
"""


def client(name: str) -> str:
    """Return a program of the PostgreSQL that the tests use, such as psql."""
    return str(find_postgres() / name)


def environment(postgres: PostgresServer, **more: str) -> dict[str, str]:
    """Return an environment that says where PostgreSQL is, and nothing of users."""
    where = {"PGHOST": postgres.host, "PGPORT": str(postgres.port), "PGDATABASE": postgres.dbname}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return inherited | where | more


def vault_url(engine: DatabaseEngine, role: str) -> tuple[str, dict[str, str]]:
    """Return a provider's URL, and the environment that it needs."""
    how = engine.admin.create_approle(role, [engine.policy(role)])
    settings = {
        "address": engine.vault.address,
        "auth": "approle",
        "role_id": how.role_id,
        "secret_id_env": "COMMAND_SECRET_ID",
    }
    secret = {"COMMAND_SECRET_ID": how.secret_id.reveal()}
    return f"vault://{role}?{urlencode(settings)}", environment(engine.postgres, **secret)


class Source:
    """A file with the credentials of real roles, which `rotate` replaces by another's."""

    def __init__(self, postgres: PostgresServer, prefix: str, folder: Path, canary: Canary) -> None:
        self.path = folder / "source.json"
        self.url = f"file://{self.path}?poll_interval=0.05"
        self.prefix = prefix
        self._postgres = postgres
        self._number = 0
        canary.allow_secret_file(self.path)
        self.rotate()

    def role(self, number: int | None = None) -> str:
        """Return the name of a role, by default of the last one."""
        return f"{self.prefix}_{number or self._number}"

    def rotate(self, password: str = "") -> None:
        """Make the next role, and put it into the file."""
        self._number += 1
        self.set_password(password or f"source-Password-{self._number}", "CREATE")

    def set_password(self, password: str, verb: str = "ALTER") -> None:
        """Change the password of the last role, there and in the file."""
        statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}")
        with closing(self._postgres.admin()) as admin:
            admin.execute(statement.format(sql.Identifier(self.role()), sql.Literal(password)))
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"username": self.role(), "password": password}))
        new.chmod(0o600)
        new.replace(self.path)

    def drop_all(self) -> None:
        with closing(self._postgres.admin()) as admin:
            for number in range(1, self._number + 1):
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.role(number))))


class Command:
    """``ephemeral-creds``, running; what it and its program print comes line by line."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str],
        command: tuple[str, ...] = COMMAND,
        cwd: Path | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            bufsize=1,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(name,)) for name in ("stdout", "stderr")
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            for line in stream:
                (self.out if name == "stdout" else self.err).append(line.rstrip("\n"))
                if name == "stdout":
                    self._lines.put(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            # A program that outlived the command may still have its output open.
            reader.join(PATIENCE)

    def write(self, text: str) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def line(self) -> str:
        """Return the next line of the program's output."""
        try:
            return self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no line came; {self.out}, {self.err}") from None

    def end(self) -> int:
        """Wait for the end, and return the exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status


def run(
    *arguments: str, env: Mapping[str, str], command: tuple[str, ...] = COMMAND
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit status and what it printed."""
    with Command(*arguments, env=env, command=command) as running:
        status = running.end()
        return status, "\n".join(running.out), "\n".join(running.err)
