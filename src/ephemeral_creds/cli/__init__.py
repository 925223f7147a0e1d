"""The command ``ephemeral-creds``."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from ephemeral_creds.cli._statuses import ExitStatus, of_signal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; ``None`` takes the process's own.

    Returns:
        The exit status: an `ExitStatus`, 128 and the number of the signal that ended it, or that of
        the program that `exec` ran.

    Raises:
        SystemExit: for ``--help``, and for arguments that were not understood.
    """
    if sys.stderr is None:
        # It was closed, and print() would write to stdout in its place.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - to the end
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # Not at the top: Ctrl-C may come while these are imported.
        from ephemeral_creds.cli._messages import OutputLost, flush, print_error

        try:
            try:
                return _run(words)
            finally:
                flush()
        except OutputLost as error:
            print_error(words[0] if words else "", error)
            return ExitStatus.UNAVAILABLE
    except BrokenPipeError:
        # As after `| head`: what a program does that SIGPIPE ends.
        return of_signal(signal.SIGPIPE)
    except KeyboardInterrupt:
        # No command listens for signals yet, and none has started anything.
        return of_signal(signal.SIGINT)


def _run(words: list[str]) -> int:
    from ephemeral_creds.cli._arguments import parse
    from ephemeral_creds.cli._exec_options import split_command

    own, program = split_command(words)
    parsed = parse(own)
    if parsed.command is None:
        if parsed.version:
            from ephemeral_creds.cli._version import print_version

            return print_version(verbose=parsed.verbose)
        parsed.parser.print_help(sys.stderr)
        return ExitStatus.USAGE
    try:
        return _dispatch(parsed, program)
    except ImportError as error:
        from ephemeral_creds.cli._messages import print_error

        print_error(parsed.command, error, debug=parsed.debug)
        return ExitStatus.UNAVAILABLE


def _dispatch(parsed: argparse.Namespace, program: Sequence[str]) -> int:
    """Run the command that was parsed. Only what it needs is imported."""
    match parsed.command:
        case "exec":
            from ephemeral_creds.cli._exec_options import ExecOptions

            if not program:
                parsed.parser.error(
                    "the program is missing: put it after --, as in exec [URL] -- psql mydb"
                )
            from ephemeral_creds.cli._exec import run_exec

            return run_exec(ExecOptions.of(parsed, program))
        case "agent":
            from ephemeral_creds.cli._agent import run_agent
            from ephemeral_creds.cli._agent_options import AgentOptions

            return run_agent(AgentOptions.of(parsed))
        case "check":
            from ephemeral_creds.cli._check import run_check
            from ephemeral_creds.cli._check_options import CheckOptions

            return run_check(CheckOptions.of(parsed))
        case "completion":
            from ephemeral_creds.cli._completion import run_completion

            return run_completion(parsed.shell)
        case _:
            from ephemeral_creds.cli._demo_options import DemoOptions
            from ephemeral_creds.cli._demo_packages import require_packages

            require_packages()
            # Only now: it imports them.
            from ephemeral_creds.cli._demo import run_demo

            return run_demo(DemoOptions.of(parsed))
