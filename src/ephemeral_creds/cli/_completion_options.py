"""Arguments of ``ephemeral-creds completion``; imports only what is always installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.cli._common_options import add_debug
from ephemeral_creds.cli._manual import Manual
from ephemeral_creds.cli._statuses import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.cli._manual import CommandParser

__all__ = ["SHELLS", "add_completion_parser"]

SHELLS = ("bash", "zsh", "fish")

_MANUAL = Manual(
    summary="print a script that completes commands and options in a shell",
    description="""
        Print a script that completes commands, options and files in a shell.

        It needs the extra "completion". Make the script again after an upgrade.
    """,
    examples={
        "bash, with the package bash-completion": (
            "mkdir -p ~/.local/share/bash-completion/completions\n"
            "ephemeral-creds completion bash \\\n"
            "    > ~/.local/share/bash-completion/completions/ephemeral-creds"
        ),
        "zsh, with ~/.zfunc in fpath": "ephemeral-creds completion zsh > ~/.zfunc/_ephemeral-creds",
        "fish": (
            "ephemeral-creds completion fish \\\n"
            "    > ~/.config/fish/completions/ephemeral-creds.fish"
        ),
    },
    statuses={
        ExitStatus.DONE: "the script was printed",
        ExitStatus.USAGE: "the arguments were not understood",
        ExitStatus.UNAVAILABLE: "the package shtab is not installed",
    },
)


def add_completion_parser(add_parser: Callable[..., CommandParser]) -> None:
    """Add the command to those of the whole parser."""
    parser = add_parser("completion", help=_MANUAL.summary, manual=_MANUAL)
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    add_debug(parser)
