"""A checkout with one query, and a checkout with none: ours against psycopg's own pool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks._measure import compare, run_threads, schedule
from benchmarks._world import fixed_pool, plain_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg_pool import ConnectionPool

    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

    Pools = Mapping[str, ConnectionPool[Any]]

__all__ = ["SIZE", "THREADS", "measure"]

THREADS = (1, 16, 64)
SIZE = 20


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures and details."""
    pools = {
        "plain": plain_pool(server, SIZE),
        "ours": fixed_pool(server, SIZE),
        "control": plain_pool(server, SIZE),
    }
    try:
        details = {
            f"{threads} threads": _queries(pools, threads, effort.slice, effort.turns)
            for threads in THREADS
        }
        bare = _bare(pools, effort.slice / 2, effort.bare_turns)
    finally:
        for pool in pools.values():
            pool.close()
    return {
        "checkout_ratio": min(found["ours_quartiles"][1] for found in details.values()),
        "bare_ratio": bare["ours_quartiles"][1],
    }, details | {"bare": bare}


def _queries(pools: Pools, threads: int, seconds: float, turns: int) -> dict[str, Any]:
    """Compare checkouts with a query: the same threads go from pool to pool."""
    order = schedule(list(pools), turns)

    def work(stop: float) -> list[int]:
        began = stop - seconds * len(order)
        done = [0] * len(order)
        while (at := int((time.perf_counter() - began) / seconds)) < len(order):
            with pools[order[at]].connection() as conn:
                conn.execute("SELECT 1")
            done[at] += 1
        return done

    done = run_threads(threads, seconds * len(order), work)
    return compare(order, [sum(each) for each in zip(*done, strict=True)], seconds)


def _bare(pools: Pools, seconds: float, turns: int) -> dict[str, Any]:
    """Compare pairs of getconn and putconn, in one thread."""
    order = schedule(list(pools), turns)
    rates = []
    for name in order:
        pool = pools[name]
        done = 0
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            for _ in range(100):
                pool.putconn(pool.getconn())
            done += 100
        rates.append(done / (time.perf_counter() - began) * seconds)
    return compare(order, rates, seconds)
