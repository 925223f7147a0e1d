"""Signals that a command waits for, instead of being interrupted by them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ENDING", "Arrived", "Signals"]

ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
"""Those that end a command which has nothing else to do with them."""

_KEYBOARD = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH})
# What sigaction(2) on Linux calls SI_KERNEL: sent by a terminal, not by a process.
_BY_KERNEL = 0x80
# The clock of the wait stands still while the machine is suspended; deadlines do not.
_LONGEST_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A signal.

    Attributes:
        number: which it is.
        by_terminal: whether a terminal sent it, hence to all processes in its foreground.
    """

    number: signal.Signals
    by_terminal: bool = False


class Signals:
    """Blocks signals, and hands them out one by one.

    Threads that are started meanwhile block them too, so that each arrives here, between two steps
    of the main thread and never within one. Used in the main thread, as a context manager.

    Args:
        wanted: the signals. SIGCHLD is always one of them.

    Attributes:
        before: the signals that were blocked before: the mask for other programs.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._wanted = {*wanted, signal.SIGCHLD}
        self.before: set[signal.Signals] = set()
        self._child_handler: Any = None
        self._thread = 0
        self._ends = False

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._wanted)
        self.before = {signal.Signals(number) for number in blocked}
        # A signal that is ignored, by default or by our parent's wish, would not be kept for us.
        self._child_handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        # What has come meanwhile asked for what is done by now.
        while self._wanted & signal.sigpending():
            signal.sigwait(self._wanted)
        # A handler that was not installed by Python cannot be restored.
        signal.signal(signal.SIGCHLD, self._child_handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def wake(self) -> None:
        """Have `wait` return, from any thread."""
        if not self._ends:
            # Not for the process: a thread that was there before does not block it.
            signal.pthread_kill(self._thread, signal.SIGCHLD)

    def wait(self, seconds: float) -> Arrived | None:
        """Return the next signal; ``None`` after `seconds`, or earlier, or for SIGCHLD."""
        seconds = min(max(seconds, 0.0), _LONGEST_WAIT)
        if hasattr(signal, "sigtimedwait"):
            found = signal.sigtimedwait(self._wanted, seconds)
            number, code = (0, 0) if found is None else (found.si_signo, found.si_code)
        else:
            # macOS.
            alarm = threading.Timer(seconds, self.wake)
            alarm.start()
            number, code = signal.sigwait(self._wanted), 0
            alarm.cancel()
        if number in (0, signal.SIGCHLD):
            return None
        which = signal.Signals(number)
        if sys.platform == "linux":
            return Arrived(which, by_terminal=code == _BY_KERNEL)
        # The system does not say who sent it. In a terminal's foreground, the terminal usually did.
        return Arrived(which, by_terminal=which in _KEYBOARD and _in_foreground())


def _in_foreground() -> bool:
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False
