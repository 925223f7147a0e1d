"""One run of another program, as a child of this process."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

from ephemeral_creds.cli._statuses import ExitStatus, of_signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Program", "why_not_runnable"]

# What stops a program for a shell's job control; SIGSTOP is for debugging.
_JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Program:
    """A program that runs in the process group of this one, so that a terminal is its own.

    Args:
        command: the program and its arguments.
        environment: its whole environment.
        blocked: the signals that it starts with blocked.

    Attributes:
        environment: what it was started with.
        status: its exit status, or 128 and the number of the signal that ended it; ``None`` while
            it runs.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        blocked: Iterable[signal.Signals],
    ) -> None:
        self.environment = environment
        self.status: int | None = None
        self.pid = os.posix_spawnp(
            command[0],
            [*command],
            environment,
            setsigmask=blocked,
            # Python ignores these; other programs expect to be ended by them.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.status is None:
            os.kill(self.pid, number)

    def look(self) -> None:
        """Take note of its end. If a shell's job control has stopped it, this process stops too."""
        # The first process of a container inherits those whose parents have ended.
        whom = -1 if os.getpid() == 1 else self.pid
        while self.status is None or whom == -1:
            try:
                pid, status = os.waitpid(whom, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.pid:
                continue
            if not os.WIFSTOPPED(status):
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else of_signal(-code)
            elif os.WSTOPSIG(status) in _JOB_CONTROL:
                # The shell that waits for this process has to notice.
                os.kill(os.getpid(), signal.SIGSTOP)


def why_not_runnable(name: str) -> tuple[int, str] | None:
    """Return the exit status for a program that cannot be run and why, as far as can be seen."""
    if shutil.which(name) is not None:
        return None
    if os.sep not in name:
        return ExitStatus.NOT_FOUND, f"{name} does not exist in any directory of PATH"
    if not os.path.exists(name):  # noqa: PTH110 - as the system sees it
        return ExitStatus.NOT_FOUND, f"{name} does not exist"
    return ExitStatus.CANNOT_RUN, f"{name} cannot be run: it is a directory, or may not be executed"
