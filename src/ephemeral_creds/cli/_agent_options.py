"""Arguments of ``ephemeral-creds agent``; imports only what is always installed."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ephemeral_creds.cli._common_options import add_url, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AgentOptions", "add_agent_parser"]

_DESCRIPTION = """\
Keeps a file that has the current credentials of a provider, for other processes: those of a pod, or
the workers of a server. Together they have one role in PostgreSQL, and two during a rotation.

The file is JSON with username, password and expires_at, which FileProvider reads. It is replaced as
a whole. The lease is renewed while the command runs; at its end the file is removed and the lease
revoked.
"""

_EPILOG = """\
examples:
  ephemeral-creds agent "vault://my-app-role?auth=kubernetes&auth_role=my-app" /run/creds/db.json
  ephemeral-creds agent /run/creds/db.json --mode 0640 --group my-app --drain 900
  ephemeral-creds agent /run/creds/db.json --conninfo "host=db dbname=mydb"

No reader reports when it has moved to new credentials: the old ones stay valid for --drain
seconds after the file has changed, if their lease lasts as long. Give it at least the length of
your longest transaction.

signals: SIGUSR1 asks for new credentials; SIGTERM, SIGINT, SIGHUP and SIGQUIT end the command. End
the readers before.

exit status: 0 after such a signal; 1 if a defect ended it; 2 if the arguments are invalid; 125 if
there were no credentials or the file cannot be written.
"""


@dataclass(frozen=True, slots=True)
class AgentOptions:
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
    """

    file: Path
    url: str | None = None
    conninfo: str | None = None
    mode: int = 0o600
    group: str | None = None
    drain: float = 300.0
    timeout: float = math.inf
    verbose: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Return the options that the parser understood."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an octal number, not {text!r}") from None


def add_agent_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser(
        "agent",
        help="keep a file that has current credentials, for other processes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_url(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the file; its directory exists")
    parser.add_argument(
        "--conninfo",
        metavar="CONNINFO",
        help="where PostgreSQL is, without user and password: log in with new credentials before "
        "they are written, and test every 10 s whether the role is still there (default: no tests)",
    )
    parser.add_argument(
        "--mode",
        type=_mode,
        default=0o600,
        metavar="MODE",
        help="the file's permissions: 0600, 0640, 0400 or 0440 (default: 0600)",
    )
    parser.add_argument(
        "--group", metavar="GROUP", help="the file's group, by name or number, for --mode 0640"
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long old credentials stay valid after the file has new ones, if their lease "
        "lasts as long (default: 300)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=math.inf,
        metavar="SECONDS",
        help="how long to wait for the first credentials (default: without a limit, unless waiting "
        "cannot help)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="report renewals and rotations on stderr as well"
    )
