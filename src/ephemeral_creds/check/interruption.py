"""Ctrl-C and SIGTERM, noticed at a moment of our choosing."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["Interrupted", "Interruption", "PromptInterruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK = 0.05  # seconds; nobody notices so short a delay after Ctrl-C


class Interrupted(Exception):
    """A signal asked to stop."""


class Interruption:
    """Takes note of the signals that ask to stop, and lets nothing be torn by them.

    An exception out of a signal handler could come between a process's start and the note that
    it has to be ended. So the handler only writes down the signal, and what runs asks for it
    between two steps. Later signals change nothing: the clean-up they would break is bounded.

    Args:
        say: called with a line for people when the first signal is noticed. Not by the handler:
            the signal may have come in the middle of what `say` prints.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.signum: signal.Signals | None = None
        self._say = say
        self._said = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for signum in _SIGNALS:
            # nohup means to go on after the terminal is gone.
            if signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @property
    def status(self) -> int:
        """The exit status that says which signal it was; 0 where there was none."""
        return 128 + self.signum if self.signum is not None else 0

    def noticed(self) -> bool:
        """Return whether a signal has come; say so the first time."""
        if self.signum is None:
            return False
        if not self._said:
            self._said = True
            self._say(f"{self.signum.name}: stopping and cleaning up")
        return True

    def check(self) -> None:
        """Go on unless a signal has come.

        Raises:
            Interrupted: one has.
        """
        if self.noticed():
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Wait; return early where a signal comes."""
        # Not an Event: setting one in a handler deadlocks with a wait() in the same thread.
        until = time.monotonic() + seconds
        while not self.noticed() and (remaining := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK, remaining))

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition` holds, and say whether it does.

        Raises:
            Interrupted: a signal came first.
        """
        until = time.monotonic() + seconds
        while not (holds := condition()) and time.monotonic() < until:
            self.sleep(_LOOK)
            self.check()
        return holds

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signal.Signals(signum)


class PromptInterruption(Interruption):
    """Also breaks off what waits for an answer, except what must not be torn.

    Outside of `breakable` a signal is noted, as ever.

    Args:
        say: as for `Interruption`.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._came = 0
        self._bears = math.inf
        self._broken = False

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """Let a signal raise `KeyboardInterrupt` at once, once; those after it are noted."""
        with self._bearing(0):
            yield

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Let a signal wait until the block has ended; a second one does not."""
        with self._bearing(1):
            yield

    @contextlib.contextmanager
    def _bearing(self, signals: float) -> Iterator[None]:
        before, self._bears = self._bears, signals
        try:
            self._break_off()
            yield
        finally:
            self._bears = before
        self._break_off()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        super()._note(signum, frame)
        self._came += 1
        self._break_off()

    def _break_off(self) -> None:
        # Once: what follows is the clean-up.
        if self._came > self._bears and not self._broken:
            self._broken = True
            raise KeyboardInterrupt
