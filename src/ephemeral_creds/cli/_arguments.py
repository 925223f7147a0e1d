"""The parser of the whole command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.cli._agent_options import add_agent_parser
from ephemeral_creds.cli._check_options import add_check_parser
from ephemeral_creds.cli._common_options import (
    NAMED_URL,
    POSTGRES_VARIABLES,
    PROVIDER_VARIABLES,
    URL_ENTRY,
)
from ephemeral_creds.cli._completion_options import add_completion_parser
from ephemeral_creds.cli._demo_options import add_demo_parser
from ephemeral_creds.cli._exec_options import add_exec_parser
from ephemeral_creds.cli._manual import CommandParser, Manual, did_you_mean
from ephemeral_creds.cli._statuses import ExitStatus

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["build_parser", "parse"]

_MANUAL = Manual(
    summary="PostgreSQL credentials that live an hour",
    description="""
        Fetch, renew, test and revoke PostgreSQL credentials that live an hour, from Vault and
        other sources, for programs that only know a user name and a password.
    """,
    examples={
        "is everything set up? test it step by step, and learn what to do": (
            'ephemeral-creds check "vault://my-app-role?auth=kubernetes&auth_role=my-app" \\\n'
            '    --conninfo "host=db dbname=mydb"'
        ),
        "run a program with credentials that are revoked when it ends": (
            'ephemeral-creds exec "vault://my-app-role?auth=token" -- psql -h db mydb'
        ),
        "share one lease between the processes of a pod": (
            "ephemeral-creds agent /run/creds/db.json --drain 900"
        ),
    },
    sections=NAMED_URL,
    environment={
        **URL_ENTRY,
        **PROVIDER_VARIABLES,
        POSTGRES_VARIABLES: "libpq's own, for check and for programs that exec runs",
    },
    statuses={
        ExitStatus.DONE: "the command has done its task, and nothing is wrong",
        ExitStatus.WARNED: (
            "it has, and the result is not good: warnings of check, a broken promise in demo, a "
            "defect that ended agent"
        ),
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.FAILED: "a step of check fails",
        ExitStatus.TRY_AGAIN: "exec --on-rotation stop stopped the program",
        ExitStatus.UNAVAILABLE: (
            "the command could not do its task: no credentials, no server, a package that is not "
            "installed, output that cannot be written"
        ),
        ExitStatus.CANNOT_RUN: "exec cannot run the program",
        ExitStatus.NOT_FOUND: "the program of exec does not exist",
        "128 + n": "signal n ended it: 130 for Ctrl-C, 141 if the reader of a pipe has gone",
        "other": "that of the program that exec ran",
    },
)


def build_parser() -> CommandParser:
    """Return the parser of the whole command line."""
    parser = CommandParser(
        manual=_MANUAL,
        prog="ephemeral-creds",
        usage="ephemeral-creds [--version [--verbose]] [--help] COMMAND …",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="with --version: those of Python, psycopg and libpq as well",
    )
    commands = parser.add_subparsers(
        title="commands, each with --help",
        dest="command",
        metavar="COMMAND",
        prog=parser.prog,
        parser_class=CommandParser,
    )
    add_check_parser(commands.add_parser)
    add_exec_parser(commands.add_parser)
    add_agent_parser(commands.add_parser)
    add_demo_parser(commands.add_parser)
    add_completion_parser(commands.add_parser)
    parser.commands = commands.choices
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the arguments mean; end the process with status 2 if they mean nothing.

    The namespace has the name of the command as ``command``: ``None`` without one.
    """
    parser = build_parser()
    # Before argparse, whose error repeats all that there is and suggests nothing.
    first = arguments[0] if arguments else "--help"
    if not first.startswith("-") and first not in parser.commands:
        known = f"; commands: {', '.join(parser.commands)}"
        parser.error(f"there is no command {first}{did_you_mean(first, parser.commands) or known}")
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsed.parser.refuse(unknown)
    return parsed
