"""What ``ephemeral-creds completion`` does; the only importer of shtab."""

from __future__ import annotations

from ephemeral_creds.cli._arguments import build_parser
from ephemeral_creds.cli._messages import print_error, print_result
from ephemeral_creds.cli._statuses import ExitStatus

__all__ = ["run_completion"]

_INSTALL = "pip install 'ephemeral-creds[completion]'"


def run_completion(shell: str) -> int:
    """Print the script for a shell, and return the exit status."""
    try:
        import shtab
    except ImportError:
        print_error(
            "completion", "shtab is not installed: pip install 'ephemeral-creds[completion]'"
        )
        return ExitStatus.UNAVAILABLE
    print_result(shtab.complete(build_parser(), shell=shell))
    return ExitStatus.DONE
