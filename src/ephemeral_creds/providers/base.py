"""The interface of a credential provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ephemeral_creds.exceptions import EphemeralCredsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant, Lease
    from ephemeral_creds.events import Event

__all__ = ["CredentialProvider", "value_of"]

_T = TypeVar("_T")


class CredentialProvider(ABC):
    """A source of credentials.

    A provider knows how to fetch, never when: it has no timers, no retries and no threads (except
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
        """Fetch credentials. May block for as long as the backend's timeouts allow."""

    def fetch_instead(self, refused: Grant) -> Grant:
        """Fetch credentials other than those of `refused`, if the source has others.

        Called in place of `fetch` while PostgreSQL refuses logins with `refused`, which the last
        `fetch` has returned once more. By default the same as `fetch`.
        """
        del refused
        return self.fetch()

    def renew(self, grant: Grant) -> Lease:
        """Ask for more time for `grant`; its credentials stay as they are.

        Returns:
            The extended lease. A duration shorter than the first one tells the keeper that the
            end of the credentials is near.
        """
        raise NotImplementedError(f"{self.description} gives no renewable leases")

    def revoke(self, grant: Grant) -> None:
        """Revoke `grant`: its last connection is closed. Must not fail if it is gone."""

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a `fetch` may return other credentials than the last did.

        `on_change` returns at once and may be called from any thread. Called once, before the
        first `fetch`; `close` ends it.
        """

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with each event of the provider's own, such as a `ProviderRequest`.

        `report` never raises; it may be slow, so it is called with no lock held, from the thread
        that made the request. Called once, before the first `fetch`.

        A provider that reads its source between fetches reports `SourceUnusable` if it cannot be
        used and `SourceRecovered` if it can again. It may report each change, however short: the
        keeper passes on those that last.
        """

    def close(self) -> None:
        """Release what the provider holds: watches, sockets, a token that it logged in for.

        Called after the last grant has been revoked. Must be safe to call twice.
        """


def value_of(outcome: _T | EphemeralCredsError) -> _T:
    """Return a value, or raise the error in its place.

    Parsers and clients return errors to their caller, which raises them by this while no exception
    is being handled: that would be the error's context, and may hold a secret.
    """
    if isinstance(outcome, EphemeralCredsError):
        raise outcome
    return outcome
