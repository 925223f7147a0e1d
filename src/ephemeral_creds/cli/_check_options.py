"""Arguments of ``ephemeral-creds check``; imports only what is always installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.cli._common_options import (
    NAMED_URL,
    POSTGRES_VARIABLES,
    PROVIDER_VARIABLES,
    URL_ENTRY,
    Options,
    add_debug,
    add_url,
    seconds,
)
from ephemeral_creds.cli._manual import Manual
from ephemeral_creds.cli._statuses import SIGNALLED, ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.cli._manual import CommandParser

__all__ = ["CheckOptions", "add_check_parser"]

_MANUAL = Manual(
    summary="test a provider step by step, for operators and init containers",
    description="""
        Test a provider of credentials step by step, and print what each step found and what to do.

        For Vault: each address, TLS, seal, clock, login, policies, the role, a mint, a login to
        PostgreSQL and whether that is encrypted, what the role may do, whether VALID UNTIL moves
        with a renewal, and whether a revocation drops the role. For a file: whether it can be read
        and by whom, the login, and VALID UNTIL. For other providers: whether there are
        credentials, the login, and VALID UNTIL.

        One role is minted and revoked; with --dry-run none is minted. A static role or a file,
        which mints none, is checked completely in any case.
    """,
    examples={
        "everything that a service needs, with that service's own identity": (
            'ephemeral-creds check "vault://my-app-role?auth=kubernetes&auth_role=my-app" \\\n'
            '    --conninfo "host=db dbname=mydb"'
        ),
        "in an init container, while the sidecar starts": (
            "ephemeral-creds check file:///vault/secrets/db-creds.txt --wait 30 \\\n"
            '    --conninfo "host=db dbname=mydb"'
        ),
        "in a script, without a mint, with the URL in EPHEMERAL_CREDS_URL": (
            "ephemeral-creds check --dry-run --json"
        ),
    },
    sections=NAMED_URL,
    environment={
        **URL_ENTRY,
        **PROVIDER_VARIABLES,
        POSTGRES_VARIABLES: "where PostgreSQL is, without --conninfo",
    },
    statuses={
        ExitStatus.DONE: "no problem found; with --dry-run, in the steps that ran",
        ExitStatus.WARNED: "it works, with warnings; 0 with --allow-warnings",
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.FAILED: "a step fails: it does not work",
        ExitStatus.UNAVAILABLE: (
            "the check could not run: psycopg cannot be used, or the result cannot be printed"
        ),
        SIGNALLED: "SIGHUP, Ctrl-C or SIGTERM ended it; the minted role was revoked",
    },
)


@dataclass(frozen=True, slots=True)
class CheckOptions(Options):
    """Options of the command.

    Attributes:
        url: the provider's URL; ``None`` takes it from ``EPHEMERAL_CREDS_URL``.
        conninfo: where PostgreSQL is; ``None`` takes it from libpq's own variables.
        session_role: the role that sessions act as, if another one than they log in as.
        wait: seconds to wait for a source that is not there yet.
        dry_run: mint nothing.
        json: print one JSON object instead of text.
        allow_warnings: exit with 0 if there are only warnings.
    """

    url: str | None = None
    conninfo: str | None = None
    session_role: str | None = None
    wait: float = 0.0
    dry_run: bool = False
    json: bool = False
    allow_warnings: bool = False


def add_check_parser(add_parser: Callable[..., CommandParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser("check", help=_MANUAL.summary, manual=_MANUAL)
    add_url(parser)
    what = parser.add_argument_group("PostgreSQL")
    what.add_argument(
        "--conninfo",
        metavar="CONNINFO",
        help="where PostgreSQL is, without user and password (default: libpq's own variables, "
        "such as PGHOST; with neither, PostgreSQL is not checked, which is a warning)",
    )
    what.add_argument(
        "--session-role",
        metavar="ROLE",
        help="the role that sessions act as, as session_role of the pool (default: the one that "
        "they log in as)",
    )
    how = parser.add_argument_group("steps")
    how.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds(),
        default=0.0,
        help="how long to wait for a file that is not written yet, or a server that does not "
        "answer or is sealed; other problems are reported at once (default: 0)",
    )
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="stop before a role is minted (default: mint one, and revoke it)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object (default: text)")
    output.add_argument(
        "--allow-warnings",
        action="store_true",
        help="exit with 0 if there are only warnings (default: with 1)",
    )
    add_debug(output)
