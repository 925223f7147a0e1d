"""Fakes that need no server: clocks that a test moves, a scripted provider, an event collector."""

from __future__ import annotations

import itertools
import math
import threading
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.events import Event
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds._clock import Clock

__all__ = ["EventCollector", "FakeClock", "ScriptedProvider", "TickingClock"]

# A test that forgets to move the clock must fail, not hang.
_PATIENCE = 30.0

_E = TypeVar("_E", bound=Event)


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
        """Move time forward and wake the threads that wait for it."""
        with self._lock:
            self._now += seconds
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()

    def suspend(self, seconds: float) -> None:
        """Move time forward as a suspended machine does: waiting threads sleep on."""
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


class ScriptedProvider(CredentialProvider):
    """Hands out ``user-1``, ``user-2`` … with leases of `duration` seconds, unless told otherwise.

    Append an exception to `failures` to have the next call of that kind raise it; set `mint` to
    decide which credentials come next. Every call is noted in `calls`.

    Attributes:
        duration: seconds that a lease lasts.
        maximum: seconds from its grant after which a lease cannot be extended.
        renewable: whether leases can be renewed.
        failures: exceptions to raise, by kind: ``fetch``, ``renew``, ``revoke``.
        calls: what was called: ``fetch``, ``renew 1``, ``revoke 1`` …
        live: user names that were granted and not revoked.
        gate: cleared, it makes every call hang until it is set.
        mint: returns the next credentials.
    """

    mints: ClassVar[bool] = True

    def __init__(
        self,
        clock: Clock,
        *,
        duration: float = 3600.0,
        maximum: float = 86400.0,
        renewable: bool = True,
        mint: Callable[[int], Credentials] | None = None,
    ) -> None:
        self.duration = duration
        self.maximum = maximum
        self.renewable = renewable
        self.failures: dict[str, list[Exception]] = {"fetch": [], "renew": [], "revoke": []}
        self.calls: list[str] = []
        self.live: set[str] = set()
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.mint = mint or _invent
        self._clock = clock
        self._numbers = itertools.count(1)
        self._granted_at: dict[str, float] = {}
        self._on_change: Callable[[], None] | None = None

    @property
    def description(self) -> str:
        """What messages call it."""
        return "scripted provider"

    def fetch(self) -> Grant:
        """Hand out the next credentials."""
        requested_at = self._clock.now()
        self._called("fetch")
        credentials = self.mint(next(self._numbers))
        self._granted_at[credentials.username] = requested_at
        self.live.add(credentials.username)
        lease = Lease(
            requested_at=requested_at,
            duration=self.duration,
            renewable=self.renewable,
            lease_id=f"lease/{credentials.username}",
        )
        return Grant(credentials, lease)

    def renew(self, grant: Grant) -> Lease:
        """Extend a lease, up to `maximum` seconds from its grant."""
        requested_at = self._clock.now()
        self._called(f"renew {grant.generation}", "renew")
        ends_at = self._granted_at[grant.credentials.username] + self.maximum
        return Lease(
            requested_at=requested_at,
            duration=min(self.duration, ends_at - requested_at),
            renewable=True,
            lease_id=grant.lease.lease_id,
        )

    def revoke(self, grant: Grant) -> None:
        """Revoke credentials."""
        self._called(f"revoke {grant.generation}", "revoke")
        self.live.discard(grant.credentials.username)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Remember whom to call from `change`."""
        self._on_change = on_change

    def change(self) -> None:
        """Tell the keeper that a fetch may bring something else."""
        if self._on_change is not None:
            self._on_change()

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def _called(self, call: str, kind: str = "fetch") -> None:
        self.calls.append(call)
        self.gate.wait()
        if self.failures[kind]:
            raise self.failures[kind].pop(0)


def _invent(number: int) -> Credentials:
    return Credentials(f"user-{number}", Secret(f"scripted-password-{number}"))


class EventCollector:
    """Collects the events of a keeper and its pools: give it to them among ``observers``.

    Iterate over it for all events so far, in their order.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._waited_for = 0
        self._changed = threading.Condition()

    def __call__(self, event: Event, /) -> None:
        """Record `event`."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._events))

    def of(self, kind: type[_E]) -> list[_E]:
        """Return all events of that kind so far."""
        return [event for event in self if isinstance(event, kind)]

    def wait_for(self, kind: type[_E], timeout: float = 10.0) -> _E:
        """Return the first event of that kind after what the last call returned.

        Raises:
            AssertionError: none came in `timeout` seconds.
        """

        def find() -> _E | None:
            for number, event in enumerate(self._events[self._waited_for :], self._waited_for):
                if isinstance(event, kind):
                    self._waited_for = number + 1
                    return event
            return None

        with self._changed:
            if found := self._changed.wait_for(find, timeout):
                return found
            others = ", ".join(type(e).__name__ for e in self._events[self._waited_for :])
        raise AssertionError(f"no {kind.__name__} in {timeout:g} s, only: {others or 'nothing'}")
