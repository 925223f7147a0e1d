"""Arguments of ``ephemeral-creds exec``; imports only what is always installed."""

from __future__ import annotations

import argparse
import re
import signal
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Self

from ephemeral_creds.cli._common_options import (
    NAMED_URL,
    PROVIDER_VARIABLES,
    URL_ENTRY,
    add_debug,
    add_url,
    add_verbose,
    seconds,
)
from ephemeral_creds.cli._manual import Manual
from ephemeral_creds.cli._statuses import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ephemeral_creds.cli._manual import CommandParser

__all__ = ["ExecOptions", "OnRotation", "add_exec_parser", "split_command"]

_MANUAL = Manual(
    summary="run a program with credentials of a provider",
    description="""
        Run a program that logs in to PostgreSQL by itself, with credentials of a provider.

        The program finds the user name in PGUSER, and PGPASSFILE names a file with the password,
        which only this user can read: psql, pg_dump and everything else that is built on libpq, as
        well as most other drivers, need nothing else. Where the database is remains the program's
        own setting: PGHOST, PGDATABASE, PGSSLMODE and its arguments are left as they are.

        While the program runs, the lease is renewed; when it has ended, the lease is revoked.
    """,
    examples={
        "psql in a pod": (
            'ephemeral-creds exec "vault://my-app-role?auth=kubernetes&auth_role=my-app" \\\n'
            "    -- psql -h db mydb"
        ),
        "a dump, with the URL in EPHEMERAL_CREDS_URL": (
            "ephemeral-creds exec -- pg_dump --format=custom --file=mydb.dump"
        ),
        "a server whose workers use this library, with one lease for all": (
            "ephemeral-creds exec --share -- uvicorn --workers 4 my_service:app"
        ),
        "a program that takes a URL, started again with new credentials": (
            "ephemeral-creds exec --on-rotation restart \\\n"
            "    --url-env 'DATABASE_URL=postgresql://{user}:{password}@db/mydb' \\\n"
            "    -- ./service"
        ),
    },
    sections={
        "actions of --on-rotation, when the user name has changed": {
            "ignore": (
                "nothing: the old lease is renewed for as long as the server allows. Right "
                "with --pg-service for a program that is built on libpq, and with --share for "
                "one that is built on this library: these log in as the new user by "
                "themselves"
            ),
            "restart": (
                "SIGTERM, SIGKILL after --grace seconds, and start the program again; the old "
                "lease is revoked when it has ended"
            ),
            "stop": (
                f"the same without the start, with exit status {ExitStatus.TRY_AGAIN:d}: a "
                "supervisor starts it again"
            ),
            "signal:NAME": (
                "send the signal, such as signal:HUP, to a program that reads files again"
            ),
        },
        "signals": (
            "INT, QUIT, TERM, HUP, USR1, USR2, WINCH, TSTP and CONT are passed on to the program, "
            "except those that a terminal has already sent to both."
        ),
        **NAMED_URL,
    },
    environment={
        **URL_ENTRY,
        **PROVIDER_VARIABLES,
        "TMPDIR": "where the private directory is made (default: in memory, if there is a place)",
    },
    statuses={
        "the program's": "it has ended by itself; 128 and the signal's number if one ended it",
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.TRY_AGAIN: "--on-rotation stop stopped the program: start it again",
        ExitStatus.UNAVAILABLE: (
            "there were no credentials in time, the URL is wrong, or the private directory cannot "
            "be made"
        ),
        ExitStatus.CANNOT_RUN: "the program cannot be run",
        ExitStatus.NOT_FOUND: "the program does not exist",
        "128 + n": "signal n came while no program was running",
    },
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class OnRotation:
    """What to do when a running program's environment has old credentials.

    Attributes:
        action: what it is.
        signal: what to send, for ``signal``.
    """

    action: Literal["ignore", "restart", "stop", "signal"] = "ignore"
    signal: signal.Signals | None = None


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """Options of the command.

    Attributes:
        url: the provider's URL; ``None`` takes it from ``EPHEMERAL_CREDS_URL``.
        command: the program and its arguments.
        user_env: further variables that get the user name.
        password_env: variables that get the password.
        url_env: variables that get a URL, and its template.
        pg_service: whether libpq finds the user name in a service file.
        share: whether the program's own `provider_from_url` finds a file with the credentials.
        drain: seconds for which old credentials stay valid, with `share`.
        on_rotation: what to do when the environment has old credentials.
        grace: seconds between SIGTERM and SIGKILL.
        timeout: seconds to wait for credentials.
        verbose: whether to report events that are no problems.
        debug: whether to report requests, and the traceback of an error.
    """

    url: str | None = None
    command: tuple[str, ...] = ()
    user_env: tuple[str, ...] = ()
    password_env: tuple[str, ...] = ()
    url_env: tuple[tuple[str, str], ...] = ()
    pg_service: bool = False
    share: bool = False
    drain: float = 300.0
    on_rotation: OnRotation = OnRotation()
    grace: float = 30.0
    timeout: float = 30.0
    verbose: bool = False
    debug: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace, command: Sequence[str]) -> Self:
        """Return the options that the parser understood, to run `command`."""
        values = {f.name: getattr(parsed, f.name) for f in fields(cls) if f.name != "command"}
        for name in ("user_env", "password_env", "url_env"):
            values[name] = tuple(values[name])
        return cls(command=tuple(command), **values)


def split_command(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arguments of ``exec``, and what follows the first ``--``: a program and its own.

    Not left to argparse, which takes options of the program for those of the command.
    """
    if "exec" not in arguments[:1] or "--" not in arguments:
        return arguments, ()
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be the name of an environment variable: {text!r}")
    return text


def _template(text: str) -> tuple[str, str]:
    name, separator, template = text.partition("=")
    if not separator or not ("{user}" in template or "{password}" in template):
        raise argparse.ArgumentTypeError(
            "must be NAME=TEMPLATE, with {user} and {password} in the template"
        )
    return _name(name), template


def _on_rotation(text: str) -> OnRotation:
    action, _, name = text.partition(":")
    if action == "signal":
        number = getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", None)
        if isinstance(number, signal.Signals):
            return OnRotation("signal", number)
    elif not name and action in ("ignore", "restart", "stop"):
        return OnRotation(action)  # type: ignore[arg-type]
    raise argparse.ArgumentTypeError(
        f"must be ignore, restart, stop, or signal:NAME with a signal's name, not {text!r}"
    )


def add_exec_parser(add_parser: Callable[..., CommandParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser(
        "exec",
        help=_MANUAL.summary,
        manual=_MANUAL,
        usage="ephemeral-creds exec [options] [URL] -- PROGRAM [ARGUMENT ...]",
    )
    add_url(parser)
    given = parser.add_argument_group("what the program gets, besides PGUSER and PGPASSFILE")
    given.add_argument(
        "--user-env",
        action="append",
        default=[],
        type=_name,
        metavar="NAME",
        help="a further variable that gets the user name, such as DB_USERNAME; may be repeated",
    )
    given.add_argument(
        "--password-env",
        action="append",
        default=[],
        type=_name,
        metavar="NAME",
        help="a variable that gets the password, for programs that read no PGPASSFILE; every "
        "process of this user can read a program's environment; may be repeated",
    )
    given.add_argument(
        "--url-env",
        action="append",
        default=[],
        type=_template,
        metavar="NAME=TEMPLATE",
        help="a variable that gets the template with {user} and {password} replaced, "
        "percent-encoded, for programs that only take a URL; with the password it is as readable "
        "as that of --password-env; may be repeated",
    )
    given.add_argument(
        "--pg-service",
        action="store_true",
        help="have libpq find the user name in a file as well (PGSERVICEFILE, PGSERVICE), which it "
        "reads for each connection",
    )
    given.add_argument(
        "--share",
        action="store_true",
        help="for programs that use this library: set EPHEMERAL_CREDS_URL to a file with the "
        "current credentials, so that all processes of a server share this lease",
    )
    rotation = parser.add_argument_group("rotation")
    rotation.add_argument(
        "--on-rotation",
        type=_on_rotation,
        default=OnRotation(),
        metavar="ACTION",
        help="what to do when the program's environment has old credentials: ignore, restart, "
        "stop or signal:NAME, see below (default: ignore)",
    )
    rotation.add_argument(
        "--grace",
        type=seconds(),
        default=30.0,
        metavar="SECONDS",
        help="how long a program that is restarted or stopped has to end before SIGKILL "
        "(default: 30)",
    )
    rotation.add_argument(
        "--drain",
        type=seconds(),
        default=300.0,
        metavar="SECONDS",
        help="with --share: how long old credentials stay valid after the file has new ones, if "
        "their lease lasts as long (default: 300)",
    )
    start = parser.add_argument_group("credentials")
    start.add_argument(
        "--timeout",
        type=seconds(),
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for credentials before the program is started (default: 30)",
    )
    output = parser.add_argument_group("output")
    add_verbose(output, "report renewals and rotations on stderr (default: only problems)")
    add_debug(output)
