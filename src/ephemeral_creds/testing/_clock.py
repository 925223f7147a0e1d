"""Clocks that a test moves: one that stands still, and one that ticks."""

from __future__ import annotations

import math
import threading

from ephemeral_creds._clock import SystemClock

__all__ = ["FakeClock", "TickingClock"]

# A test that forgets to move the clock must fail, not hang.
_PATIENCE = 30.0


class FakeClock:
    """Time for tests: starts at `start` seconds and moves by `advance` and `suspend` only."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._waiting: list[threading.Condition] = []

    def now(self) -> float:
        """Return the instant that the test has set."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move time forward and wake whoever waits for it."""
        with self._lock:
            self._now += seconds
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()

    def suspend(self, seconds: float) -> None:
        """Move time forward as a suspended machine does: whoever waits for it sleeps on."""
        self._now += seconds

    def wait(self, condition: threading.Condition, until: float) -> None:
        """Wait for a notification of `condition`, or for a test to move time to `until`."""
        with self._lock:
            remaining = self._until(until)
            if remaining <= 0:
                return
            self._waiting.append(condition)
        try:
            condition.wait(min(remaining, _PATIENCE))
        finally:
            with self._lock:
                self._waiting.remove(condition)

    def _until(self, instant: float) -> float:
        return math.inf if self._now < instant else 0.0


class TickingClock(FakeClock):
    """Real time, which a test moves on by `advance`: for what talks to real servers."""

    def __init__(self) -> None:
        super().__init__(start=0.0)
        self._system = SystemClock()

    def now(self) -> float:
        """Return the instant: the system's, and what a test has added."""
        return self._system.now() + self._now

    def _until(self, instant: float) -> float:
        return instant - self.now()
