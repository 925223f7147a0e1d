"""The processor time of a checkout: ours against psycopg_pool's own, for threads and for asyncio.

Each pool has a process of its own. In a shared one, CPython would specialise psycopg_pool's code
for the class of the last caller, and both would pay for it at each turn.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

from benchmarks._measure import FULL, Figure, compare, least_of
from benchmarks._world import Login, fixed_pool, plain_pool
from ephemeral_creds import AsyncRotatingConnectionPool, FixedProvider

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure", "measure_async"]

SIZE = 20
# In one turn of a few milliseconds, which the scheduler leaves alone often enough.
BARE, QUERIES = 1000, 8


class Threads:
    """A pool, and the threads that use it."""

    def __init__(self, login: Login, *, ours: bool) -> None:
        self._pool = (fixed_pool if ours else plain_pool)(login, SIZE)
        self._threads = ThreadPoolExecutor(max(FULL.at_once))

    def bare(self) -> float:
        """Return the processor time of getconn and putconn, in seconds."""
        pool = self._pool
        began = time.process_time()
        for _ in range(BARE):
            pool.putconn(pool.getconn())
        return (time.process_time() - began) / BARE

    def queries(self, at_once: int) -> float:
        """Return the processor time of a checkout with a query, in seconds."""

        def work(_: int) -> None:
            for _ in range(QUERIES):
                with self._pool.connection() as conn:
                    conn.execute("SELECT 1")

        began = time.process_time()
        list(self._threads.map(work, range(at_once)))
        return (time.process_time() - began) / (QUERIES * at_once)

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class Tasks:
    """An async pool, and the tasks that use it."""

    def __init__(self, login: Login, *, ours: bool) -> None:
        self._runner = asyncio.Runner()
        self._pool = self._runner.run(self._open(login, ours=ours))

    @staticmethod
    async def _open(login: Login, *, ours: bool) -> AsyncConnectionPool[Any]:
        pool: AsyncConnectionPool[Any]
        if ours:
            pool = AsyncRotatingConnectionPool(
                FixedProvider(login.user, login.password),
                login.conninfo,
                kwargs={"autocommit": True},
                min_size=SIZE,
            )
        else:
            arguments = login.arguments()
            pool = AsyncConnectionPool(login.conninfo, kwargs=arguments, min_size=SIZE, open=False)
        await pool.open(wait=True)
        return pool

    def bare(self) -> float:
        """Return the processor time of getconn and putconn, in seconds."""

        async def work() -> float:
            pool = self._pool
            began = time.process_time()
            for _ in range(BARE):
                await pool.putconn(await pool.getconn())
            return (time.process_time() - began) / BARE

        return self._runner.run(work())

    def queries(self, at_once: int) -> float:
        """Return the processor time of a checkout with a query, in seconds."""

        async def work() -> None:
            for _ in range(QUERIES):
                async with self._pool.connection() as conn:
                    await conn.execute("SELECT 1")

        async def all_of_them() -> None:
            await asyncio.gather(*(work() for _ in range(at_once)))

        began = time.process_time()
        self._runner.run(all_of_them())
        return (time.process_time() - began) / (QUERIES * at_once)

    def close(self) -> None:
        """Close the pool."""
        self._runner.run(self._pool.close())
        self._runner.close()


_contender: Threads | Tasks
"""Of this process, which was started for it."""


def _open(kind: type[Threads | Tasks], login: Login, ours: bool) -> None:
    global _contender  # noqa: PLW0603
    _contender = kind(login, ours=ours)


def _call(method: str, *arguments: int) -> Any:
    return getattr(_contender, method)(*arguments)


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details, of threads."""
    return _measure(Threads, "", server, effort)


def measure_async(
    server: PostgresServer, effort: Effort
) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details, of tasks."""
    return _measure(Tasks, "async_", server, effort)


def _measure(
    kind: type[Threads | Tasks], prefix: str, server: PostgresServer, effort: Effort
) -> tuple[dict[str, Figure], dict[str, Any]]:
    found = [_generation(kind, Login.of(server), effort) for _ in range(effort.generations)]
    bare = [costs["bare"] for costs in found]
    # A query's time differs by a fifth from turn to turn where others use the machine; what a pool
    # adds, before and after it, is a hundredth of it. So that is measured without a query, and
    # compared with the cheapest query there was.
    query = min(costs["query"]["plain"] for costs in found)
    figure = _ratio(bare)
    plain = statistics.median(costs["plain"] for costs in bare)

    def whole(ratio: float) -> float:
        return query / (query + plain / ratio - plain)

    checkout = whole(figure.value)
    figures = {
        f"{prefix}checkout_ratio": Figure(checkout, checkout - whole(figure.value - figure.error)),
        f"{prefix}bare_ratio": figure,
    }
    details: dict[str, Any] = {
        f"bare {who}, us": round(statistics.median(c[who] for c in bare) * 1e6, 3)
        for who in bare[0]
    }
    details["checkout with SELECT 1, us"] = round(query * 1e6, 1)
    for at_once in effort.at_once:
        measured = _ratio([costs[f"{at_once} at once"] for costs in found])
        details[f"ratio with SELECT 1, {at_once} at once"] = str(measured)
    return figures, details


def _ratio(costs: list[dict[str, float]]) -> Figure:
    return compare(*([c["plain"] / c[who] for c in costs] for who in ("ours", "control")))


def _generation(
    kind: type[Threads | Tasks], login: Login, effort: Effort
) -> dict[str, dict[str, float]]:
    """Start a process for each pool; return the least that each kind of turn took in it."""
    context = get_context("spawn")
    with ExitStack() as stack:
        processes = {
            who: stack.enter_context(
                ProcessPoolExecutor(1, context, _open, (kind, login, who == "ours"))
            )
            for who in ("plain", "ours", "control")
        }
        # All at once, since starting takes longer than any turn.
        for future in [process.submit(_call, "bare") for process in processes.values()]:
            future.result()

        def least(of: Iterable[str], method: str, *arguments: int) -> dict[str, float]:
            def turn(process: ProcessPoolExecutor) -> float:
                return float(process.submit(_call, method, *arguments).result())

            turns = {who: functools.partial(turn, processes[who]) for who in of}
            return least_of(turns, effort.turns)

        found = {"bare": least(processes, "bare"), "query": least(["plain"], "queries", 1)}
        for at_once in effort.at_once:
            found[f"{at_once} at once"] = least(processes, "queries", at_once)
        for process in processes.values():
            process.submit(_call, "close").result()
    return found
