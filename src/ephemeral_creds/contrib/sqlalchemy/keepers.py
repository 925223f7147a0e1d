"""Where an engine's keeper comes from, and who closes it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ephemeral_creds._fork import register
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.providers.url import provider_from_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import Observer
    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["GivenKeeper", "KeeperSource", "OwnKeeper", "SharedKeeper"]


class KeeperSource(Protocol):
    """Gives an engine its keeper, in each process that uses the engine."""

    def obtain(self) -> Keeper:
        """Return a keeper that has been started."""
        ...

    def release(self) -> None:
        """Note that the engine was disposed of: one `obtain` is undone. Returns at once."""


class GivenKeeper:
    """A keeper that its user has made, starts and closes.

    Args:
        keeper: the keeper.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def obtain(self) -> Keeper:
        """Return the keeper."""
        return self._keeper

    def release(self) -> None:
        """Do nothing: who made it closes it."""


class OwnKeeper:
    """One keeper in each process for a provider; it is closed when the process ends.

    Not when the engine is disposed of, which may be used afterwards: a provider can be closed once.

    Args:
        provider: the provider. Those of this library start afresh in the child of a fork.
        refresh: when to renew, retry and mint.
        observers: called with each event.
    """

    def __init__(
        self,
        provider: CredentialProvider,
        refresh: RefreshPolicy | None,
        observers: Sequence[Observer] | None,
    ) -> None:
        self._provider = provider
        self._refresh = refresh
        self._observers = observers
        self._keeper: CredentialKeeper | None = None
        register(self)

    def obtain(self) -> Keeper:
        """Return the keeper of this process."""
        if self._keeper is None:
            self._keeper = CredentialKeeper(
                self._provider, refresh=self._refresh, observers=self._observers
            )
        self._keeper.start()
        return self._keeper

    def release(self) -> None:
        """Do nothing."""

    def _after_fork(self) -> None:
        self._keeper = None


class _Registry:
    """The keepers of this process by the URLs of their providers, and how many engines use each."""

    def __init__(self) -> None:
        self._after_fork()
        register(self)

    def _after_fork(self) -> None:
        # Reentrant: a collection while it is held may end an engine that was forgotten.
        self._lock = threading.RLock()
        self._keepers: dict[str | None, tuple[CredentialKeeper, int]] = {}

    def obtain(self, url: str | None) -> CredentialKeeper:
        with self._lock:
            keeper, users = self._keepers.get(url, (None, 0))
            if keeper is None:
                keeper = CredentialKeeper(provider_from_url(url))
                keeper.start()
            self._keepers[url] = keeper, users + 1
            return keeper

    def release(self, url: str | None) -> None:
        with self._lock:
            if url not in self._keepers:
                return
            keeper, users = self._keepers.pop(url)
            if users > 1:
                self._keepers[url] = keeper, users - 1
                return
        keeper.close_later()


_registry = _Registry()


class SharedKeeper:
    """One keeper in each process for all engines whose credentials come from the same URL.

    An application makes several engines of one URL: a sync one and an async one, one for
    migrations, one for each module. With a keeper each, every process would mint as many roles.
    The keeper is closed when its last engine is disposed of; an engine that is used again has
    another one made.

    Args:
        url: the provider's URL; ``None`` for that in the environment.

    Raises:
        ConfigurationError: the URL cannot be right.
    """

    def __init__(self, url: str | None) -> None:
        # Here, and not when the first connection is opened, the caller can tell what is wrong.
        provider_from_url(url).close()
        self._url = url

    def obtain(self) -> Keeper:
        """Return the keeper of this process."""
        return _registry.obtain(self._url)

    def release(self) -> None:
        """Close it, in the background, where no engine uses it any more."""
        _registry.release(self._url)
