"""Keepers, pools and logins of this process: made at first use, and again after a fork."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ephemeral_creds._fork import register
from ephemeral_creds.contrib.django._logins import Logins
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.providers.url import provider_from_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds.pool._sync.pool import RotatingConnectionPool

    # What OPTIONS["credentials"] may be.
    Source = str | CredentialProvider | Callable[[], CredentialProvider | CredentialKeeper]

__all__ = ["Process", "process"]


class Process:
    """The keepers of this process, one for each source of credentials, and what is made on them.

    They are here and not in pools, which Django and Celery close at many an occasion: a keeper in
    there would have a role minted each time.

    Attributes:
        number: how many forks there are between this process and the one that imported this.
        pools: by alias, what Django calls ``_connection_pools``.
    """

    def __init__(self) -> None:
        self.number = 0
        self.pools: dict[str, RotatingConnectionPool[Any]] = {}
        self._begin()
        register(self)

    def _begin(self) -> None:
        self.lock = threading.RLock()
        # The source is kept with its keeper: another one may have its id later.
        self._keepers: dict[object, tuple[CredentialKeeper, Source]] = {}
        self._logins: dict[tuple[int, str], Logins] = {}

    def _after_fork(self) -> None:
        self.number += 1
        # The same dictionary: it is a class attribute of Django's.
        self.pools.clear()
        self._begin()

    def keeper(self, source: Source, alias: str) -> CredentialKeeper:
        """Return the keeper for `source`; aliases that have the same one share it.

        Raises:
            ConfigurationError: `source` is a URL that cannot be right, or makes something else.
        """
        key = source if isinstance(source, str) else id(source)
        with self.lock:
            if key not in self._keepers:
                keeper = _new_keeper(source, alias)
                keeper.start()
                self._keepers[key] = keeper, source
            return self._keepers[key][0]

    def close(self, timeout: float = 5.0) -> None:
        """Close all pools, then all keepers, each in up to `timeout` seconds: the process ends."""
        with self.lock:
            pools, keepers = list(self.pools.values()), list(self._keepers.values())
        for pool in pools:
            pool.close(timeout)
        for keeper, _ in keepers:
            keeper.close(timeout)

    def logins(
        self, keeper: CredentialKeeper, alias: str, params: Mapping[str, Any], role: str | None
    ) -> Logins:
        """Return what opens connections of `alias` without a pool."""
        key = id(keeper), alias
        with self.lock:
            if key not in self._logins:
                self._logins[key] = Logins(keeper, params, role)
            return self._logins[key]


def _new_keeper(source: Source, alias: str) -> CredentialKeeper:
    made: object = source
    if isinstance(source, str):
        made = provider_from_url(source)
    elif not isinstance(source, CredentialProvider) and callable(source):
        made = source()
    if isinstance(made, CredentialKeeper):
        return made
    if isinstance(made, CredentialProvider):
        return CredentialKeeper(made, name=f"django-{alias}")
    raise ConfigurationError(
        "OPTIONS['credentials'] has to be a provider's URL, a provider, or a callable that returns "
        f"a provider or a CredentialKeeper, not {type(made).__name__!r}"
    )


process = Process()
