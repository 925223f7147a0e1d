"""How a keeper and its pools know each other: by these protocols, not by their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.lifecycle.signals import Signal

__all__ = ["Consumer", "Keeper", "KeeperStatus"]


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """A snapshot of a keeper, fit for a health endpoint: plain values and no secret.

    Attributes:
        name: the keeper's name.
        provider: where the credentials come from.
        state: ``new``, ``acquiring`` (nothing to log in with), ``serving``, ``closing``,
            ``closed`` (also in the child of a fork), or ``failed`` where the keeper's thread has
            crashed: what is in use works until its deadline, and nothing replaces it.
        ready: whether a login is possible right now.
        generation: the generation in use; 0 before the first.
        username: its user name.
        expires_in: seconds until its deadline; ``None`` where it has none, negative after it.
        retired: generations whose connections are being replaced or whose lease is being
            revoked.
        fetches: requests for new credentials.
        grants: new credentials received; each is a minted role where the provider mints.
        renewals: leases renewed.
        revocations: leases revoked.
        rotations: changes from one generation to the next.
        rejected_logins: logins that PostgreSQL answered with an error, whatever the reason.
        failed_fetches: requests for credentials that failed.
        failed_renewals: renewals that failed.
        failed_revocations: revocations that failed.
        last_error: text of the last failure, also after a success; ``None`` if there was none.
        ends_in: seconds until the expected end of credentials that have no lease and thus no
            ``expires_in``, by ``VALID UNTIL`` in PostgreSQL or by the source. Negative where they
            are past it and still in use, since there are no others. ``None`` where it is not
            known.
        source_error: why the source cannot be used now, while older credentials are in use: its
            file is malformed, for example. ``None`` where it can, and in the first three seconds.
    """

    name: str
    provider: str
    state: str
    ready: bool
    generation: int
    username: str | None
    expires_in: float | None
    retired: tuple[int, ...]
    fetches: int
    grants: int
    renewals: int
    revocations: int
    rotations: int
    rejected_logins: int
    failed_fetches: int
    failed_renewals: int
    failed_revocations: int
    last_error: str | None
    ends_in: float | None = None
    source_error: str | None = None


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
