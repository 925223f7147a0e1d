"""Arguments of ``ephemeral-creds check``; imports only what is always installed."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CheckOptions", "add_check_parser"]

_DESCRIPTION = """\
Tries a credential provider step by step, and says for each step what it found and what to do.

For Vault: each address, TLS, seal, clock, login, policies, the role, a mint, a login to
PostgreSQL and whether that is encrypted, what the role may do, whether VALID UNTIL moves with a
renewal, and whether a revocation removes the role. For a file: whether it can be read and by
whom, the login, and VALID UNTIL.
"""

_EPILOG = """\
examples:
  ephemeral-creds check "vault://my-app-role?auth=kubernetes&auth_role=my-app" \\
      --conninfo "host=db dbname=mydb"
  ephemeral-creds check file:///vault/secrets/db-creds.txt --wait 30 \\
      --conninfo "host=db dbname=mydb"
  ephemeral-creds check --dry-run --json

One role is minted and revoked; with --dry-run none is minted.

exit status: 0 if all is well; 1 if there are only warnings (0 with --allow-warnings); 2 if a step
fails or the arguments are invalid.
"""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Options of the command.

    Attributes:
        url: the provider's URL; ``None`` takes it from ``EPHEMERAL_CREDS_URL``.
        conninfo: where PostgreSQL is; ``None`` takes it from libpq's own variables.
        session_role: the role that sessions act as, if another one than they log in as.
        wait: seconds to wait for a file or a Vault that is not there yet.
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

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Return the options that the parser understood."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return value


def add_check_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to those of the whole parser."""
    check = add_parser(
        "check",
        help="try a provider step by step, for operators and init containers",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="what provider_from_url takes (default: the variable EPHEMERAL_CREDS_URL)",
    )
    check.add_argument(
        "--conninfo",
        metavar="CONNINFO",
        help="where PostgreSQL is, without user and password (default: libpq's own variables, "
        "such as PGHOST)",
    )
    check.add_argument(
        "--session-role",
        metavar="ROLE",
        help="the role that sessions act as, as session_role of the pool (default: their own)",
    )
    check.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="how long to wait for a file that is not written yet, or a Vault that does not "
        "answer or is sealed (default: 0)",
    )
    check.add_argument(
        "--dry-run",
        action="store_true",
        help="stop before Vault mints a role. A static role or a file is checked completely, since "
        "reading it mints none",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument(
        "--allow-warnings", action="store_true", help="exit with 0 if there are only warnings"
    )
