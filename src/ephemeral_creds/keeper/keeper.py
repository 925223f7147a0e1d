"""The keeper, as its users see it."""

from __future__ import annotations

import copy
import itertools
import math
import random
import warnings
from typing import TYPE_CHECKING

from ephemeral_creds._clock import Clock, SystemClock
from ephemeral_creds._fork import register, registered
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError
from ephemeral_creds.keeper.messages import no_credentials, refresh_unfinished
from ephemeral_creds.keeper.phase import Phase
from ephemeral_creds.keeper.registry import close_all, close_at_process_end
from ephemeral_creds.keeper.thread import KeeperThread
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.signals import Close, RefreshRequested, Signal
from ephemeral_creds.observers import Observer, log_event
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from ephemeral_creds import events
    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Consumer
    from ephemeral_creds.keeper.status import KeeperStatus

__all__ = ["CredentialKeeper"]

# What the machine does not know of.
_STATES = {Phase.CRASHED: "failed", Phase.STOPPED: "closed", Phase.INHERITED: "closed"}

_numbers = itertools.count(1)


class CredentialKeeper:
    """Keeps one provider's credentials fresh, for any number of pools.

    One thread fetches, renews, replaces and revokes; `current` reads memory. A pool makes a
    keeper of its own unless it is given one; give several pools the same keeper to have them
    rotate together and share one role.

    The keeper never gives up: while the provider is unavailable it tries again with growing
    delays, and the credentials in use work until their deadline.

    A process that forks must start its keepers in the child (in gunicorn's ``post_fork``, for
    example): a thread does not survive a fork, and the leases belong to the parent. In the child,
    a keeper that the parent had started raises `KeeperClosed` and revokes nothing.

    Args:
        provider: where the credentials come from. The keeper closes it.
        refresh: when to renew, retry and mint.
        observers: called with each `Event`. By default events are logged.
        clock: where to read time from.
        name: for logs and the thread; by default ``keeper-1`` and so on.
        policy: the deprecated name of `refresh`.

    Raises:
        ConfigurationError: `provider` is not a `CredentialProvider`.
    """

    def __init__(
        self,
        provider: CredentialProvider,
        *,
        refresh: RefreshPolicy | None = None,
        observers: Sequence[Observer] | None = None,
        clock: Clock | None = None,
        name: str | None = None,
        policy: RefreshPolicy | None = None,
    ) -> None:
        refresh = renamed("CredentialKeeper", refresh, policy)
        if not isinstance(provider, CredentialProvider):
            raise ConfigurationError(
                "CredentialKeeper: the first argument has to be a CredentialProvider, not "
                f"{type(provider).__name__!r}"
            )
        self._machine = Lifecycle(
            refresh or RefreshPolicy(),
            mints=provider.mints,
            draw=random.Random().random,  # noqa: S311 - spreads load
        )
        self._thread = KeeperThread(
            name or f"keeper-{next(_numbers)}",
            provider,
            self._machine,
            clock or SystemClock(),
            (log_event,) if observers is None else tuple(observers),
        )
        register(self)

    def __repr__(self) -> str:
        if not hasattr(self, "_thread"):
            # Its constructor has failed, and what reports that may look at it.
            return "<CredentialKeeper not made>"
        return f"<CredentialKeeper {self.name!r} of {self._thread.provider.description}>"

    @property
    def name(self) -> str:
        """The keeper's name in logs."""
        return self._thread.name

    @property
    def clock(self) -> Clock:
        """The clock that the deadlines of its grants are read on."""
        return self._thread.clock

    @property
    def generation(self) -> int:
        """The generation in use, be it expired or not; 0 before the first. Never blocks or raises.

        It changes with each rotation: compare it with the one that a session logged in with.
        """
        grant = self._machine.current
        return 0 if grant is None else grant.generation

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever other credentials are in use.

        It is also called when a fetch has failed, the keeper's thread has crashed, or the keeper is
        closed: look at `generation`, or call `current`. It is called from the keeper's thread, or
        from the one that closes the keeper, and has to return at once; what it raises is reported
        as a `KeeperFailed` event.

        Returns:
            A function that ends this.
        """
        with self._thread.changed:
            return self._thread.listen(callback)

    def require_running(self) -> None:
        """Raise what `refresh` raises where there will be no other credentials any more."""
        if self._thread.phase not in (Phase.NEW, Phase.RUNNING):
            raise no_credentials(self._thread)

    def start(self) -> None:
        """Start to fetch credentials, in the background. Does nothing if it runs already.

        Raises:
            KeeperClosed: it was closed, or belongs to the parent process of a fork.
            RuntimeError: the system allows the process no further thread. Nothing was started; it
                can be tried again.
        """
        thread = self._thread
        with thread.changed:
            if thread.phase in (Phase.RUNNING, Phase.CRASHED):
                return
            if thread.phase is not Phase.NEW:
                raise no_credentials(thread)
            thread.start()
        close_at_process_end(_threads)

    def current(self) -> Grant:
        """Return what to log in with. Reads memory and never blocks.

        Raises:
            NotReady: there have been no credentials yet.
            CredentialsExpired: the last credentials have expired.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.

        If the keeper's thread has crashed, the message of the first two says so.
        """
        grant = self._usable(self.clock.now())
        if grant is None:
            raise no_credentials(self._thread)
        return grant

    def _usable(self, now: float) -> Grant | None:
        if self._thread.phase in (Phase.STOPPED, Phase.INHERITED):
            return None
        return self._machine.usable(now)

    def wait(self, timeout: float = 30.0) -> Grant:
        """Wait for credentials to log in with, up to `timeout` seconds.

        Raises:
            ConfigurationError, AccessDenied: at once, where there have been no credentials yet
                and only a person can help. The keeper keeps trying, slowly.
            NotReady, CredentialsExpired: there were none in time; the cause is chained.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.
        """
        thread, machine = self._thread, self._machine
        deadline = self.clock.now() + timeout
        with thread.changed:
            while (grant := self._usable(now := self.clock.now())) is None:
                error = machine.last_error
                hopeless = isinstance(error, ConfigurationError | AccessDenied)
                if error is not None and hopeless and machine.current is None:
                    raise copy.copy(error) from None
                if thread.phase not in (Phase.NEW, Phase.RUNNING) or now >= deadline:
                    # Copied because what is raised refers to the frames that it passes: the one
                    # that is kept would keep their local variables.
                    raise no_credentials(thread) from copy.copy(error)
                self.clock.wait(thread.changed, deadline)
            return grant

    def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait, up to `timeout` seconds, until they are in use.

        Joins a refresh that is under way, unless its credentials have failed to log in seven
        times: then it asks for others. Mints are limited, so that a loop of calls only waits.

        Returns:
            The grant in use afterwards; the same as before if the provider had no other.

        Raises:
            ProviderError, ConfigurationError: the provider failed. The credentials in use stay.
            NotReady: it took longer than `timeout`, and continues in the background. Or, at once,
                the keeper has not been started.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.
        """
        thread, machine = self._thread, self._machine
        deadline = self.clock.now() + timeout
        with thread.changed:
            if thread.phase is not Phase.RUNNING:
                raise no_credentials(thread)
            failures = machine.counts.failed_fetches
            request = thread.post(RefreshRequested())
            while thread.handled < request or not machine.settled:
                if thread.phase is not Phase.RUNNING:
                    raise no_credentials(thread)
                error = machine.last_error
                if machine.counts.failed_fetches > failures and error is not None:
                    raise copy.copy(error) from None
                if self.clock.now() >= deadline:
                    raise refresh_unfinished(thread, timeout)
                self.clock.wait(thread.changed, deadline)
        return self.current()

    def status(self) -> KeeperStatus:
        """Return a snapshot for a health endpoint or a person."""
        from ephemeral_creds.keeper.status import KeeperStatus

        with self._thread.changed:
            now = self.clock.now()
            machine, counts = self._machine, self._machine.counts
            grant = machine.current
            return KeeperStatus(
                name=self.name,
                provider=self._thread.provider.description,
                state=_STATES.get(self._thread.phase, machine.state.value),
                ready=self._usable(now) is not None,
                generation=0 if grant is None else grant.generation,
                username=None if grant is None else grant.credentials.username,
                expires_in=None if grant is None else _finite(grant.lease.expires_at - now),
                retired=machine.retired,
                fetches=counts.fetches,
                grants=counts.grants,
                renewals=counts.renewals,
                revocations=counts.revocations,
                rotations=counts.rotations,
                rejected_logins=counts.rejected_logins,
                failed_fetches=counts.failed_fetches,
                failed_renewals=counts.failed_renewals,
                failed_revocations=counts.failed_revocations,
                last_error=machine.last_failure,
                ends_in=_finite(machine.ends_at - now),
                source_error=machine.source_error or None,
                lease_duration=None if grant is None else _finite(grant.lease.duration),
                rejected_by_reason=dict(counts.rejected_by_reason),
            )

    def close(self, timeout: float = 5.0) -> None:
        """Revoke all leases, close the provider and stop; returns in `timeout` seconds.

        If the provider hangs, the thread is left to finish by itself, and leases that cannot be
        revoked expire. A keeper without a thread, because it was not started or
        the thread has crashed, closes the provider at once, which takes as long as the provider's
        own ``close()`` does. Safe to call twice, and in the child of a fork, where it does nothing.
        """
        if self._thread.phase is not Phase.INHERITED:
            close_all([self._thread], timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        self._thread.inherit()

    # -- for consumers; see `Keeper` -------------------------------------------------------

    def join(self, consumer: Consumer) -> tuple[int, Grant | None]:
        """Add a consumer; return the number that it signals with, and the grant in use, if any."""
        with self._thread.changed:
            if self._thread.phase is Phase.INHERITED:
                raise no_credentials(self._thread)
            return self._thread.join(consumer)

    def leave(self, number: int) -> None:
        """Remove a consumer that has closed its connections."""
        self._thread.leave(number)

    def signal(self, signal: Signal) -> None:
        """Have the keeper's thread take note of `signal`; returns at once."""
        self._thread.signal(signal)

    def close_later(self) -> None:
        """Close in the background; returns at once."""
        self._thread.signal(Close())

    def report(self, event: events.Event) -> None:
        """Call the observers with `event`."""
        self._thread.report(event)


def renamed(
    keeper: str, refresh: RefreshPolicy | None, policy: RefreshPolicy | None
) -> RefreshPolicy | None:
    """Return what the caller's caller gave as ``refresh=``, or by its old name, ``policy=``."""
    if policy is None:
        return refresh
    if refresh is not None:
        raise TypeError(f"{keeper}: policy= is the old name of refresh=: leave it out")
    warnings.warn(f"{keeper}(policy=) is now refresh=", DeprecationWarning, stacklevel=3)
    return policy


def _finite(seconds: float) -> float | None:
    return seconds if seconds < math.inf else None


def _threads() -> list[KeeperThread]:
    return [keeper._thread for keeper in registered(CredentialKeeper)]  # noqa: SLF001
