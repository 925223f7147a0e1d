"""The one place that reads time, and that waits for it."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading

__all__ = ["Clock", "SystemClock"]

# Condition variables wait on a clock that stops in suspend. Looking at the real one this often
# bounds how late a timer can be after waking up, at a cost too small to measure.
_LONGEST_WAIT = 5.0


class Clock(Protocol):
    """Where the library reads time from; tests own theirs."""

    def now(self) -> float:
        """Return an instant in seconds on a scale that never goes back."""
        ...

    def wait(self, condition: threading.Condition, until: float) -> None:
        """Wait, with `condition` held, for a notification or for the instant `until`.

        May return earlier; the caller looks again at what it waits for.
        """
        ...


class SystemClock:
    """Seconds since boot, those spent in suspend included if the system counts them.

    A lease ages while a laptop or a virtual machine sleeps. ``CLOCK_BOOTTIME`` ticks
    through suspend (Linux, clock_gettime(2)); ``CLOCK_MONOTONIC``, which is the fallback, does
    so on macOS but not on Linux.
    """

    # Each checkout asks for it: a function in C costs half of what one in Python does.
    now = staticmethod(
        functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )
    """Return the seconds since boot."""

    def wait(self, condition: threading.Condition, until: float) -> None:
        """Wait for a notification of `condition` or for the instant `until`."""
        remaining = until - self.now()
        if remaining > 0 or until == math.inf:
            condition.wait(min(remaining, _LONGEST_WAIT))
