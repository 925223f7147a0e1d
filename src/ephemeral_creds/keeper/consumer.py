"""How a keeper and its consumers know each other: by these protocols, not by their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.lifecycle.signals import Signal

__all__ = ["Consumer", "Keeper"]


class Consumer(Protocol):
    """A pool, or another user of credentials, as its keeper sees it.

    The methods are called from the keeper's thread and return at once; what they ask for is done
    in the consumer's own time.
    """

    def prove(self, grant: Grant) -> None:
        """Log in once with `grant`, then signal `LoginAccepted` or `LoginRejected`."""

    def publish(self, grant: Grant) -> None:
        """Log in with `grant` from now on."""

    def extend(self, grant: Grant) -> None:
        """The deadline of `grant`, which is in use or on its way out, has moved."""

    def retire(self, grant: Grant) -> None:
        """Replace the connections of `grant`, then signal `ConsumerReleased`."""

    def expire(self, grant: Grant) -> None:
        """`grant`, which is in use, has reached its deadline."""

    def reclaim(self, grant: Grant) -> None:
        """`grant` has been replaced, and its deadline is near or past: act on what is borrowed."""

    def suspect(self, grant: Grant) -> None:
        """Test connections of `grant` before they are lent: their role may be gone."""

    def ask_end(self, grant: Grant) -> None:
        """Ask PostgreSQL how long `grant` can log in, then signal `EndLearned`.

        A consumer also does so, unasked, with its first login of a grant that has no deadline.
        """

    def failed(self) -> None:
        """Have callers that wait for credentials ask `Keeper.wait` again, with a timeout of 0.

        Called when a fetch has failed, be it for good or not, when the keeper's thread has
        crashed, and when the keeper is closed; then from the thread that closes it.
        """


@runtime_checkable
class Keeper(Protocol):
    """A keeper, as its consumers see it."""

    @property
    def name(self) -> str:
        """What it is called in logs."""
        ...

    @property
    def clock(self) -> Clock:
        """What the deadlines of its grants are instants of."""
        ...

    @property
    def generation(self) -> int:
        """The generation in use; 0 before the first."""
        ...

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change, until what is returned is called."""
        ...

    def join(self, consumer: Consumer) -> tuple[int, Grant | None]:
        """Add a consumer; return the number that it signals with, and the grant in use, if any."""
        ...

    def leave(self, number: int) -> None:
        """Remove a consumer that has closed its connections."""

    def current(self) -> Grant:
        """Return what to log in with; never blocks. Raises `NoCredentials`."""
        ...

    def wait(self, timeout: float) -> Grant:
        """Wait for something to log in with."""
        ...

    def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait until they are in use."""
        ...

    def signal(self, signal: Signal) -> None:
        """Tell what happened."""

    def report(self, event: Event) -> None:
        """Pass an event on to the observers."""

    def status(self) -> KeeperStatus:
        """Return a snapshot."""
        ...
