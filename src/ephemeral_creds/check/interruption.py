"""Signals that ask to stop, deferred until it is safe."""

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
_LOOK = 0.05  # seconds; too short a delay after Ctrl-C to be noticed


class Interrupted(Exception):
    """A signal asked to stop."""


class Interruption:
    """Records signals that ask to stop, without interrupting what runs.

    An exception out of a signal handler could come between a process's start and the note that
    it has to be ended. So the handler only records the signal, and the caller checks for it
    between two steps. Later signals change nothing: the clean-up they would break is bounded.

    Args:
        say: called with a message when the first signal is noticed. Not by the handler:
            the signal may have come in the middle of what `say` prints.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.signum: signal.Signals | None = None
        self._say = say
        self._said = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for signum in _SIGNALS:
            # nohup: continue after the terminal is gone.
            if signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @property
    def status(self) -> int:
        """The exit status for the signal; 0 without one."""
        return 128 + self.signum if self.signum is not None else 0

    def noticed(self) -> bool:
        """Return whether a signal has arrived; report it the first time."""
        if self.signum is None:
            return False
        if not self._said:
            self._said = True
            self._say(f"{self.signum.name}: stopping and cleaning up")
        return True

    def check(self) -> None:
        """Continue unless a signal has arrived.

        Raises:
            Interrupted: one has.
        """
        if self.noticed():
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Wait; return early if a signal arrives."""
        # Not an Event: setting one in a handler deadlocks with a wait() in the same thread.
        until = time.monotonic() + seconds
        while not self.noticed() and (remaining := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK, remaining))

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition` holds, and say whether it does.

        Raises:
            Interrupted: a signal arrived first.
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
    """Also interrupts requests that wait for a reply, except in `unbroken` blocks.

    Outside of `breakable` a signal is only recorded.

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
        """Let a signal raise `KeyboardInterrupt` at once, once; later ones are recorded."""
        with self._bearing(0):
            yield

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Defer a signal until the end of the block; a second one interrupts it."""
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
