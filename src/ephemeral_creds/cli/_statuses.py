"""Exit statuses: what each number means, in one place for all commands."""

from __future__ import annotations

import signal
from enum import IntEnum

__all__ = ["SIGNALLED", "ExitStatus", "of_signal"]


class ExitStatus(IntEnum):
    """The exit statuses that are not those of a signal, or of the program that `exec` runs.

    Attributes:
        DONE: the command has done its task, and found nothing wrong.
        WARNED: it has done its task, with a result that is not good: warnings of `check`, a broken
            promise in `demo`, a defect that ended `agent`.
        USAGE: the arguments were not understood. argparse's own.
        FAILED: a step of `check` fails.
        TRY_AGAIN: `exec --on-rotation stop` has stopped the program. sysexits.h has it for what
            is worth another attempt.
        UNAVAILABLE: the command could not do its task: no credentials, no server, a package that
            is not installed. That of other programs that run programs and fail themselves, such as
            env and timeout.
        CANNOT_RUN: the program that `exec` is to run cannot be run. A shell's.
        NOT_FOUND: that program does not exist. A shell's.
    """

    DONE = 0
    WARNED = 1
    USAGE = 2
    FAILED = 3
    TRY_AGAIN = 75
    UNAVAILABLE = 125
    CANNOT_RUN = 126
    NOT_FOUND = 127


def of_signal(number: int) -> int:
    """Return the exit status for a signal, as a shell has it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


SIGNALLED = ", ".join(
    str(of_signal(number)) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
)
"""The statuses for the signals that usually end a command, for its help."""
