"""The pools and keepers whose metrics are read."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from ephemeral_creds.contrib._figures import PoolFigures, Reading
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.keeper.consumer import Keeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
from ephemeral_creds.pool.base import LeasedPool

__all__ = ["Observed"]

# More than are ever in flight between two looks; pop_stats() takes back more.
_OWN_REQUESTS = 100


@dataclass(slots=True)
class _Pool:
    """A pool that is observed."""

    pool: weakref.ref[LeasedPool]
    requests: int = 0


@dataclass(slots=True)
class Observed:
    """The pools and keepers that figures are read from. They are held weakly.

    A keeper is read once, however many pools share it, and none is read after it was closed: what
    it says about a lease would seem to be one that nothing renews. No locks: it is read and changed
    by single operations on dictionaries.
    """

    _pools: dict[tuple[str, str], _Pool] = field(default_factory=dict)
    _keepers: dict[str, weakref.ref[Keeper]] = field(default_factory=dict)

    def add(self, source: LeasedPool | Keeper | AsyncCredentialKeeper) -> bool:
        """Add a pool with its keeper, or a keeper. Does nothing if it was added before.

        Returns:
            Whether it was.

        Raises:
            ConfigurationError: another one of the same name is open: their figures could not be
                told apart.
        """
        pool = source if isinstance(source, LeasedPool) else None
        if isinstance(source, AsyncCredentialKeeper):
            source = source.keeper
        keeper = source.keeper if isinstance(source, LeasedPool) else source
        given: object = keeper
        if not isinstance(given, Keeper):
            raise ConfigurationError(
                f"metrics are those of a pool or a keeper; given was {type(given).__name__!r}"
            )
        other = self._keepers.get(keeper.name)
        known = other() if other is not None else None
        if known is not None and known is not keeper and known.status().state != "closed":
            raise ConfigurationError(
                f"there are metrics of another keeper {keeper.name!r}: give each keeper a name of "
                "its own, by CredentialKeeper(name=)"
            )
        self._keepers[keeper.name] = weakref.ref(keeper)
        return known is keeper if pool is None else self._add_pool(pool, keeper.name)

    def _add_pool(self, pool: LeasedPool, keeper: str) -> bool:
        key = (keeper, pool.name)
        known = self._pools.get(key)
        other = known.pool() if known is not None else None
        if other is pool:
            return True
        if other is not None and not other._ended:  # noqa: SLF001 - ours
            raise ConfigurationError(
                f"there are metrics of another pool {pool.name!r} of keeper {keeper!r}: give each "
                "pool a name of its own, by name="
            )
        self._pools[key] = _Pool(weakref.ref(pool))
        return False

    def read_keepers(self, now: float) -> dict[str, Reading]:
        """Return what the keepers say, by their names.

        Args:
            now: Unix time, in seconds.
        """
        found = {name: reference() for name, reference in list(self._keepers.items())}
        statuses = {name: k.status() for name, k in found.items() if k is not None}
        return {name: Reading(s, now) for name, s in statuses.items() if s.state != "closed"}

    def read_pools(self) -> dict[tuple[str, str], PoolFigures]:
        """Return what the pools say, by the names of their keepers and their own."""
        readings = {}
        for key, known in list(self._pools.items()):
            # Not `closed`, which is also true before it is opened.
            if (pool := known.pool()) is not None and not pool._ended:  # noqa: SLF001 - ours
                stats = pool.get_stats()
                # A request of the pool's own is taken back when it has ended. A counter that falls
                # would seem to have begun again.
                if 0 < known.requests - stats.get("requests_num", 0) <= _OWN_REQUESTS:
                    stats["requests_num"] = known.requests
                known.requests = stats.get("requests_num", 0)
                readings[key] = PoolFigures(pool.status(), stats)
        return readings
