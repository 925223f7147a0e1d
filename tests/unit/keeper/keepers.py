"""Keepers of one scripted provider, on a clock that stands still."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from ephemeral_creds import CredentialKeeper, RefreshPolicy
from ephemeral_creds.testing import FakeClock, ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.events import Event

PATIENCE = 20.0


class Recorder:
    """An observer that tests can wait on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Event], count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(kind) >= count, PATIENCE), self.events

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.provider = ScriptedProvider(self.clock)
        self.recorder = Recorder()
        self.keepers: list[CredentialKeeper] = []

    def keeper(self, **options: Any) -> CredentialKeeper:
        options.setdefault("observers", [self.recorder])
        options.setdefault("refresh", RefreshPolicy(jitter=0.0))
        keeper = CredentialKeeper(self.provider, clock=self.clock, **options)
        self.keepers.append(keeper)
        return keeper

    def started(self, **options: Any) -> CredentialKeeper:
        keeper = self.keeper(**options)
        keeper.start()
        keeper.wait(math.inf)
        return keeper

    def in_thread(self, function: Callable[[], object]) -> Outcome:
        return Outcome(function)


class Outcome:
    """What a call in another thread comes to."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._value: object = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:
            self._value = error

    def get(self) -> object:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._value


class BrokenClock(FakeClock):
    """Breaks down at an instant, in the thread of a keeper that waits."""

    breaks_at = 1001.0

    def wait(self, condition: threading.Condition, until: float) -> None:
        # A thread that begins to wait after that instant must not sleep through it.
        super().wait(condition, min(until, self.breaks_at))
        if self.now() >= self.breaks_at:
            raise SystemExit("clock-secret-text")
