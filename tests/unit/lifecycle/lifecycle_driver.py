"""A driver for the lifecycle machine that owns the clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.lifecycle.actions import (
    Action,
    Extend,
    Fetch,
    Prove,
    Publish,
    Renew,
    Report,
    Retire,
    Revoke,
    Stop,
)
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.signals import (
    Failed,
    Granted,
    LoginAccepted,
    Renewed,
    Revoked,
    Signal,
    Start,
    Tick,
)

if TYPE_CHECKING:
    from ephemeral_creds.events import Event

E = TypeVar("E")


def grant(number: int, now: float, duration: float = 3600.0, *, renewable: bool = True) -> Grant:
    return Grant(
        Credentials(f"user-{number}", Secret(f"machine-password-{number}")),
        Lease(now, duration, renewable, f"lease-{number}" if duration < math.inf else ""),
    )


class Driver:
    """Feeds a machine and notes what it wants; answers nothing by itself."""

    def __init__(
        self, policy: RefreshPolicy | None = None, *, mints: bool = True, pools: int = 1
    ) -> None:
        self.machine = Lifecycle(policy or RefreshPolicy(), mints=mints)
        self.now = 1000.0
        self.pools = range(1, pools + 1)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.extended: list[Grant] = []
        for number in self.pools:
            self.machine.join(number)

    def send(self, signal: Signal) -> list[Action]:
        """Send a signal; return what came out, reports and moved deadlines aside."""
        fresh = self.machine.handle(signal, self.now)
        self.events += [a.event for a in fresh if isinstance(a, Report)]
        self.extended += [a.grant for a in fresh if isinstance(a, Extend)]
        wanted: list[Action] = [a for a in fresh if not isinstance(a, Report | Extend)]
        self.actions += wanted
        return wanted

    def at(self, instant: float, signal: Signal | None = None) -> list[Action]:
        """Move the clock to `instant`, ticking at each deadline on the way."""
        wanted: list[Action] = []
        while self.machine.deadline <= instant:
            self.now = max(self.now, self.machine.deadline)
            wanted += self.send(Tick())
        self.now = instant
        return wanted + self.send(signal or Tick())

    def after(self, seconds: float, signal: Signal | None = None) -> list[Action]:
        """Move the clock by `seconds`."""
        return self.at(self.now + seconds, signal)

    def serving(self, duration: float = 3600.0, *, renewable: bool = True) -> Driver:
        """Bring it to SERVING with generation 1, granted just now, which lets each pool in."""
        assert self.send(Start()) == [Fetch()]
        self.send(Granted(grant(1, self.now, duration, renewable=renewable)))
        assert self.machine.current is not None
        for pool in self.pools:
            self.send(LoginAccepted(pool, 1))
        return self

    def renewed(self, generation: int, duration: float) -> list[Action]:
        lease = Lease(self.now, duration, renewable=True, lease_id=f"lease-{generation}")
        return self.send(Renewed(generation, lease))

    def failed(self, error: Exception) -> list[Action]:
        """Answer the operation in flight with `error`."""
        operation = self.in_flight
        assert operation is not None
        return self.send(Failed(operation, error))

    @property
    def in_flight(self) -> Fetch | Renew | Revoke | None:
        return self.machine._core.in_flight

    def events_of(self, kind: type[E]) -> list[E]:
        return [e for e in self.events if isinstance(e, kind)]


__all__ = [
    "Driver",
    "Prove",
    "Publish",
    "Retire",
    "Revoked",
    "Stop",
    "grant",
]
