"""Arguments of ``ephemeral-creds agent``; imports only what is always installed."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds.cli._common_options import (
    NAMED_URL,
    POSTGRES_VARIABLES,
    PROVIDER_VARIABLES,
    URL_ENTRY,
    Options,
    add_debug,
    add_url,
    add_verbose,
    seconds,
)
from ephemeral_creds.cli._manual import Manual
from ephemeral_creds.cli._statuses import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.cli._manual import CommandParser

__all__ = ["AgentOptions", "add_agent_parser"]

_MANUAL = Manual(
    summary="keep a file that has current credentials, for other processes",
    description="""
        Keep a file that has the current credentials of a provider, for other processes.

        These are the containers of a pod, or the workers of a server. Together they have one role
        in PostgreSQL, and two during a rotation.

        The file is JSON with username, password and expires_at, which FileProvider reads. It is
        replaced as a whole. The lease is renewed while the command runs; at its end the file is
        removed and the lease is revoked.
    """,
    examples={
        "for the containers of a pod that share a volume in memory": (
            'ephemeral-creds agent "vault://my-app-role?auth=kubernetes&auth_role=my-app" \\\n'
            "    /run/creds/db.json"
        ),
        "for processes of a group, whose transactions take up to a quarter of an hour": (
            "ephemeral-creds agent --mode 0640 --group my-app --drain 900 \\\n"
            "    /run/creds/db.json"
        ),
        "after a login with each of the credentials": (
            'ephemeral-creds agent /run/creds/db.json --conninfo "host=db dbname=mydb"'
        ),
    },
    sections={
        "how long old credentials work": (
            "No reader reports when it has moved to new credentials: the old ones stay valid for "
            "--drain seconds after the file has changed, if their lease lasts as long. Give it at "
            "least the length of your longest transaction."
        ),
        "signals": (
            "SIGUSR1 asks for new credentials. SIGTERM, SIGINT, SIGHUP and SIGQUIT end the "
            "command: end the readers first."
        ),
        **NAMED_URL,
    },
    environment={
        **URL_ENTRY,
        **PROVIDER_VARIABLES,
        POSTGRES_VARIABLES: "libpq's own, with --conninfo",
    },
    statuses={
        ExitStatus.DONE: "a signal ended it, and the lease was revoked",
        ExitStatus.WARNED: "a defect ended it",
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.UNAVAILABLE: (
            "there were no credentials, the URL is wrong, or the file cannot be written"
        ),
    },
)


@dataclass(frozen=True, slots=True)
class AgentOptions(Options):
    """Options of the command.

    Attributes:
        file: the file to keep.
        url: the provider's URL; ``None`` takes it from ``EPHEMERAL_CREDS_URL``.
        conninfo: where to test logins; ``None`` for no tests.
        mode: the file's permissions.
        group: the file's group, by name or number; ``None`` for that of new files.
        drain: seconds for which old credentials stay valid.
        timeout: seconds to wait for the first credentials.
        verbose: whether to report events that are no problems.
        debug: whether to report requests, and the traceback of an error.
    """

    file: Path
    url: str | None = None
    conninfo: str | None = None
    mode: int = 0o600
    group: str | None = None
    drain: float = 300.0
    timeout: float = math.inf
    verbose: bool = False
    debug: bool = False


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be an octal number such as 0640, not {text!r}"
        ) from None


def add_agent_parser(add_parser: Callable[..., CommandParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser("agent", help=_MANUAL.summary, manual=_MANUAL)
    add_url(parser)
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the file; its directory has to exist"
    )
    file = parser.add_argument_group("file")
    file.add_argument(
        "--mode",
        type=_mode,
        default=0o600,
        metavar="MODE",
        help="the file's permissions: 0600, 0640, 0400 or 0440 (default: 0600)",
    )
    file.add_argument(
        "--group",
        metavar="GROUP",
        help="the file's group, by name or number, for --mode 0640 (default: that of new files)",
    )
    file.add_argument(
        "--drain",
        type=seconds(),
        default=300.0,
        metavar="SECONDS",
        help="how long old credentials stay valid after the file has new ones, if their lease "
        "lasts as long (default: 300)",
    )
    start = parser.add_argument_group("credentials")
    start.add_argument(
        "--conninfo",
        metavar="CONNINFO",
        help="where PostgreSQL is, without user and password: log in with new credentials before "
        "they are written, and test every 10 s whether the role is still there, on one connection "
        "(default: no tests)",
    )
    start.add_argument(
        "--timeout",
        type=seconds(),
        default=math.inf,
        metavar="SECONDS",
        help="how long to wait for the first credentials; an error that waiting cannot fix ends "
        "the command at once (default: no limit)",
    )
    output = parser.add_argument_group("output")
    add_verbose(output, "report renewals and rotations on stderr (default: only problems)")
    add_debug(output)
