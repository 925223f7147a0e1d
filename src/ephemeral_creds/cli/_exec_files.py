"""Where a program that logs in by itself finds its credentials: environment and files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from ephemeral_creds._secret_file import SecretFile
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ephemeral_creds import Credentials, Grant
    from ephemeral_creds.cli._exec_options import ExecOptions

__all__ = ["ProgramFiles", "passfile_line"]

_SERVICE = "ephemeral_creds"


def passfile_line(username: str, password: str, server: str = "*:*") -> str:
    """Return a line of a passfile for any database of a server, or of all.

    See https://www.postgresql.org/docs/current/libpq-pgpass.html for its syntax.

    Args:
        username: the user name.
        password: the password.
        server: host and port.

    Raises:
        ConfigurationError: a line of such a file cannot hold it.
    """
    escaped = []
    for what, value in (("user name", username), ("password", password)):
        if any(character in value for character in "\0\n\r"):
            raise ConfigurationError(
                f"the {what} has a line break or a NUL in it, which a passfile cannot hold"
            )
        escaped.append(value.replace("\\", "\\\\").replace(":", "\\:"))
    return f"{server}:*:{':'.join(escaped)}\n"


def _passfile_lines(credentials: Credentials) -> str:
    username, each = credentials.username, credentials.passwords or (("*:*", credentials.password),)
    return "".join(passfile_line(username, word.reveal(), server) for server, word in each)


class ProgramFiles:
    """A private directory with the files of one program, removed at the end.

    Args:
        options: what the program is to be given.
        environ: the environment to start from.

    Attributes:
        shared: where the file is that ``--share`` asks for.

    Raises:
        ConfigurationError: `environ` has what contradicts the options.
        OSError: the directory cannot be made.
    """

    def __init__(self, options: ExecOptions, environ: Mapping[str, str]) -> None:
        if options.pg_service and "PGSERVICE" in environ:
            raise ConfigurationError(
                "PGSERVICE is set: --pg-service needs it for a service of its own; name host and "
                "database in PGHOST and PGDATABASE instead"
            )
        self._options = options
        self._environ = environ
        self._folder = Path(tempfile.mkdtemp(prefix="ephemeral-creds-", dir=_place(environ)))
        self._files = {name: SecretFile(self._folder / name) for name in ("passfile", "service")}
        self._written: dict[str, str] = {}
        self.shared = self._folder / "credentials.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, grants: Iterable[Grant]) -> None:
        """Bring the files up to date: the grant in use first, and older ones that still work.

        Raises:
            ConfigurationError: a passfile cannot hold what a grant has.
            OSError: a file cannot be written; its old content is still there.
        """
        known = [grant.credentials for grant in grants]
        texts = {"passfile": "".join(map(_passfile_lines, known))}
        if self._options.pg_service:
            texts["service"] = f"[{_SERVICE}]\nuser={known[0].username}\n"
        for name, text in texts.items():
            if self._written.get(name) != text:
                self._files[name].write(text)
                self._written[name] = text

    def environment(self, grant: Grant) -> dict[str, str]:
        """Return the environment of a program that starts with `grant`.

        Raises:
            ConfigurationError: a variable is to have the password, but each server takes its own.
        """
        options, environment = self._options, dict(self._environ)
        _check_variables(options, grant.credentials)
        user, password = grant.credentials.username, grant.credentials.password.reveal()
        # It would count more than the file.
        environment.pop("PGPASSWORD", None)
        environment["PGUSER"] = user
        if grant.credentials.requires_tls:
            # libpq's own default sends a token without TLS to a server that offers none.
            environment.setdefault("PGSSLMODE", "require")
        environment["PGPASSFILE"] = str(self._files["passfile"].path)
        if options.pg_service:
            environment["PGSERVICEFILE"] = str(self._files["service"].path)
            environment["PGSERVICE"] = _SERVICE
        if options.share:
            environment["EPHEMERAL_CREDS_URL"] = f"file://{quote(str(self.shared))}"
        environment |= dict.fromkeys(options.user_env, user)
        environment |= dict.fromkeys(options.password_env, password)
        for name, template in options.url_env:
            parts = template.replace("{user}", quote(user, safe=""))
            environment[name] = parts.replace("{password}", quote(password, safe=""))
        return environment


def _check_variables(options: ExecOptions, credentials: Credentials) -> None:
    names = [*options.password_env, *(n for n, text in options.url_env if "{password}" in text)]
    if names and credentials.passwords:
        servers = ", ".join(server for server, _ in credentials.passwords)
        raise ConfigurationError(
            f"{', '.join(names)}: a variable has room for one password, but each of {servers} "
            "takes a token of its own: name one host in the provider's URL, or have the program "
            "read PGPASSFILE, which has a line for each"
        )


def _place(environ: Mapping[str, str]) -> str | None:
    """Return where to make the directory: in memory, unless TMPDIR names another place."""
    if "TMPDIR" in environ:
        return None
    places = (environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm")  # noqa: S108 - mkdtemp is safe there
    usable = (p for p in places if p and Path(p).is_dir() and os.access(p, os.W_OK | os.X_OK))
    return next(usable, None)
