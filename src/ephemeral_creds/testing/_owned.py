"""A program that runs for this process alone, and the folder that it runs in."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds.testing._process import (
    Guard,
    end_process,
    plain_environment,
    wait_until_stopped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ephemeral_creds.testing._process import RunAs

__all__ = ["OwnedProcess"]


class OwnedProcess:
    """A process that may be started again and again, always in the same folder.

    Process and folder are gone after `end` and `remove`, which the owner's `close` calls, and soon
    after this process died without a chance to call them. After a fork only the parent can do
    anything to either.

    Args:
        name: what it is, in the folder's name and in messages.
        close: the owner's, for the interpreter's exit.
    """

    def __init__(self, name: str, close: Callable[[], None]) -> None:
        self._name = name
        self._close = close
        self._owner = os.getpid()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def ended_by_itself(self) -> bool:
        """Whether the process was started, and is dead without an `end`."""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        """The id of the process.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError(f"the {self._name} is not running")
        return self._process.pid

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder, and perhaps what an earlier run left in it."""
        return self._folder is not None

    @property
    def folder(self) -> Path:
        """Where it runs.

        Raises:
            RuntimeError: there is no such folder yet, or no longer.
        """
        if self._folder is None:
            raise RuntimeError(f"the {self._name} has not been started")
        return self._folder

    def make_folder(self) -> None:
        """Make the folder unless there is one."""
        if self._folder is None:
            atexit.register(self._close)
            self._folder = Path(tempfile.mkdtemp(prefix=f"ephemeral-creds-{self._name}-"))

    def spawn(
        self,
        arguments: Sequence[str | Path],
        *,
        output: str,
        environment: Mapping[str, str] | None = None,
        run_as: RunAs | None = None,
    ) -> None:
        """Start the program.

        Args:
            arguments: the program and what it is told; every user of the machine can read them.
            output: the file in the folder that gets what it says, at its end.
            environment: its variables, besides the plain ones.
            run_as: as which user; ``None`` for the current one.
        """
        with (self.folder / output).open("ab") as said:
            # A session of its own: Ctrl-C in a terminal must not end it before the tests have put
            # away what they hold.
            self._process = subprocess.Popen(
                arguments,
                cwd=self.folder,
                env=plain_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                **(run_as or {}),
            )
        self._guard = Guard(self._process, self.folder)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if the process does not run."""
        if self._process is not None and self.running and self._is_ours():
            self._process.send_signal(signum)

    def pause(self) -> None:
        """Stop the process until `resume`; nothing happens if it does not run."""
        self.send(signal.SIGSTOP)
        # Its threads stop one by one, which takes its time on a busy machine: until the last of
        # them has, a request may still be answered.
        if self._process is not None and self.running and self._is_ours():
            wait_until_stopped(self._process)

    def resume(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def end(self, *steps: tuple[signal.Signals, float]) -> None:
        """End the process; nothing happens if it does not run.

        Args:
            steps: signals to try, each with the seconds to wait after it; SIGKILL comes last.
        """
        if not self._is_ours():
            return
        process, self._process = self._process, None
        if process is not None:
            end_process(process, *steps)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()

    def remove(self) -> None:
        """Remove the folder; nothing happens if there is none."""
        if not self._is_ours():
            return
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        atexit.unregister(self._close)

    def _is_ours(self) -> bool:
        return os.getpid() == self._owner
