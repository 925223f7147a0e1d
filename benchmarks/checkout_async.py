"""The same as `benchmarks.checkout` for the async pools, with tasks for threads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

from benchmarks._measure import compare, schedule
from benchmarks._world import login_arguments
from benchmarks.checkout import SIZE, THREADS
from ephemeral_creds import AsyncRotatingConnectionPool, Credentials, FixedProvider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

    Pools = Mapping[str, AsyncConnectionPool[Any]]

__all__ = ["measure"]


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures and details."""
    return asyncio.run(_measure(server, effort))


async def _measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    pools = {"plain": _plain(server), "ours": _ours(server), "control": _plain(server)}
    try:
        for pool in pools.values():
            await pool.open(wait=True)
        details = {
            f"{tasks} tasks": await _queries(pools, tasks, effort.slice, effort.turns)
            for tasks in THREADS
        }
        bare = await _bare(pools, effort.slice / 2, effort.bare_turns)
    finally:
        for pool in pools.values():
            await pool.close()
    return {
        "async_checkout_ratio": min(found["ours_quartiles"][1] for found in details.values()),
        "async_bare_ratio": bare["ours_quartiles"][1],
    }, details | {"bare": bare}


def _plain(server: PostgresServer) -> AsyncConnectionPool[Any]:
    arguments = login_arguments(Credentials(server.superuser, server.password))
    return AsyncConnectionPool(server.conninfo(), kwargs=arguments, min_size=SIZE, open=False)


def _ours(server: PostgresServer) -> AsyncConnectionPool[Any]:
    return AsyncRotatingConnectionPool(
        FixedProvider(server.superuser, server.password),
        server.conninfo(),
        kwargs={"autocommit": True},
        min_size=SIZE,
    )


async def _queries(pools: Pools, tasks: int, seconds: float, turns: int) -> dict[str, Any]:
    order = schedule(list(pools), turns)
    began = time.perf_counter()

    async def work() -> list[int]:
        done = [0] * len(order)
        while (at := int((time.perf_counter() - began) / seconds)) < len(order):
            async with pools[order[at]].connection() as conn:
                await conn.execute("SELECT 1")
            done[at] += 1
        return done

    done = await asyncio.gather(*(work() for _ in range(tasks)))
    return compare(order, [sum(each) for each in zip(*done, strict=True)], seconds)


async def _bare(pools: Pools, seconds: float, turns: int) -> dict[str, Any]:
    order = schedule(list(pools), turns)
    rates = []
    for name in order:
        pool = pools[name]
        done = 0
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            for _ in range(100):
                await pool.putconn(await pool.getconn())
            done += 100
        rates.append(done / (time.perf_counter() - began) * seconds)
    return compare(order, rates, seconds)
