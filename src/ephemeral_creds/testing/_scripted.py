"""A provider that does what a test says."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock

__all__ = ["ScriptedProvider"]


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
        """Take credentials back."""
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
