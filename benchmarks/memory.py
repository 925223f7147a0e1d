"""What a pooled connection takes, and whether rotations leave anything behind."""

from __future__ import annotations

import gc
import itertools
import sys
import time
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks._contenders import UNLIMITED
from benchmarks._measure import Figure
from benchmarks._world import Login, Roles, fixed_pool, plain_pool
from ephemeral_creds import (
    CredentialKeeper,
    CredentialProvider,
    Grant,
    Lease,
    RotatingConnectionPool,
    SystemClock,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg_pool import ConnectionPool

    from benchmarks._measure import Effort
    from ephemeral_creds import Credentials
    from ephemeral_creds.testing import PostgresServer

    MakePool = Callable[[Login, int], ConnectionPool[Any]]

__all__ = ["measure"]

FEW, MANY = 10, 50
# Of the rotations: what caches and containers take at first is no leak.
_WARM_UP = 0.1
_PATIENCE = 60.0


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    tracemalloc.start()
    try:
        ours, plain = (_per_connection(Login.of(server), make) for make in (fixed_pool, plain_pool))
        left, kinds = _left_by_rotations(server, effort.leak_rotations)
    finally:
        tracemalloc.stop()
    return {
        "memory_per_connection": Figure(round(ours - plain)),
        "leak_bytes_per_rotation": Figure(round(left, 2)),
    }, {
        "bytes_per_connection": {"ours": round(ours), "plain": round(plain)},
        "rotations": effort.leak_rotations,
        "grown_most": kinds,
    }


class _TwoRoles(CredentialProvider):
    """Hands out two roles in turn, so that a rotation costs no more than its connects."""

    mints: ClassVar[bool] = True

    def __init__(self, both: tuple[Credentials, Credentials]) -> None:
        self._both = itertools.cycle(both)
        self._clock = SystemClock()

    @property
    def description(self) -> str:
        """What messages call it."""
        return "two roles in turn"

    def fetch(self) -> Grant:
        """Return the other role."""
        credentials = next(self._both)
        lease = Lease(self._clock.now(), 3600.0, renewable=True, lease_id=credentials.username)
        return Grant(credentials, lease)

    def renew(self, grant: Grant) -> Lease:
        """Extend a lease."""
        return Lease(self._clock.now(), 3600.0, renewable=True, lease_id=grant.lease.lease_id)


def _traced() -> int:
    # CPython 3.11 looks up __match_args__ under a new string each time, and its type cache keeps
    # up to 4096 of them.
    sys._clear_type_cache()  # noqa: SLF001 - documented in the module sys
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _per_connection(login: Login, make: MakePool) -> float:
    """Return bytes per connection, without what a pool takes that is empty."""
    sizes = {}
    with make(login, 1):
        pass  # what is imported and cached at first is not a connection's
    for size in (FEW, MANY):
        before = _traced()
        with make(login, size):
            sizes[size] = _traced() - before
    return (sizes[MANY] - sizes[FEW]) / (MANY - FEW)


def _left_by_rotations(server: PostgresServer, rotations: int) -> tuple[float, dict[str, int]]:
    """Return bytes per rotation, and where most of them came from."""
    with closing(Roles(server, "bench_memory")) as roles:
        provider = _TwoRoles((roles.mint(1), roles.mint(2)))
        keeper = CredentialKeeper(provider, refresh=UNLIMITED, observers=())
        pool = RotatingConnectionPool(keeper, server.conninfo(), min_size=1)
        with keeper, pool:
            pool.wait()
            warm_up = int(rotations * _WARM_UP)
            _rotate(keeper, warm_up)
            before, at_first = _traced(), tracemalloc.take_snapshot()
            _rotate(keeper, rotations - warm_up)
            grown, at_last = _traced() - before, tracemalloc.take_snapshot()
        for number in (1, 2):
            roles.drop(f"bench_memory_{number}")
    differences = at_last.compare_to(at_first, "lineno")[:5]
    kinds = {f"{d.traceback}": d.size_diff for d in differences}
    return grown / (rotations - warm_up), kinds


def _rotate(keeper: CredentialKeeper, times: int) -> None:
    for _ in range(times):
        wanted = keeper.status().revocations + 1
        keeper.refresh()
        deadline = time.monotonic() + _PATIENCE
        while keeper.status().revocations < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the old role was not let go of in {_PATIENCE:g} s")
            time.sleep(0.001)
