"""What every place that credentials come from has to be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.events import Event

__all__ = ["CredentialProvider"]


class CredentialProvider(ABC):
    """One place that credentials come from.

    A provider knows how to ask, never when: it has no timers, no retries and no threads (but for
    one that watches a file). One keeper calls it, from one thread at a time. It translates every
    failure of its backend into an `EphemeralCredsError`:

    - `ConfigurationError`: wrong role, path, mount or format. Tried again, but slowly.
    - `AccessDenied`: refused although the login is fresh. Tried again, but slowly.
    - `LeaseLost` (from `renew` only): the lease is gone; new credentials are fetched.
    - `ProviderUnavailable`, `MalformedResponse`, and any other: tried again with backoff.

    Attributes:
        mints: whether each `fetch` makes a server create something, so that fetches must be
            rationed. False for a file.
    """

    mints: ClassVar[bool] = True

    @property
    @abstractmethod
    def description(self) -> str:
        """What and where, for messages: ``Vault role 'my-app' at https://vault:8200``."""

    @abstractmethod
    def fetch(self) -> Grant:
        """Ask for credentials. May block for as long as the backend's timeouts allow."""

    def renew(self, grant: Grant) -> Lease:
        """Ask for more time for `grant`; its credentials stay as they are.

        Returns:
            The extended lease. A duration shorter than the first one tells the keeper that the
            end of the credentials is near.
        """
        raise NotImplementedError(f"{self.description} gives no renewable leases")

    def revoke(self, grant: Grant) -> None:
        """Give `grant` back: its last connection is closed. Must not fail if it is gone."""

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a `fetch` may bring other credentials than the last did.

        `on_change` returns at once and may be called from any thread. Called once, before the
        first `fetch`; `close` ends it.
        """

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with each event of the provider's own, such as a `ProviderRequest`.

        `report` never raises; it may take a while, so it is called with no lock held, from the
        thread that made the request. Called once, before the first `fetch`.

        A provider that looks at its source between fetches reports `SourceUnusable` when what is
        there cannot be used and `SourceRecovered` when it can again. Each change will do, however
        short: the keeper tells of what lasts.
        """

    def close(self) -> None:
        """Let go of what the provider holds: watches, sockets, a token that it logged in for.

        Called after the last grant has been revoked. Must be safe to call twice.
        """
