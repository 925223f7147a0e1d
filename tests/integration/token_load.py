"""A pool under load whose logins need tokens: what failed, and which backends served."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
from minting import PATIENCE, Events
from twins import EAGER, wait_until

from ephemeral_creds import (
    AsyncCredentialKeeper,
    AsyncRotatingConnectionPool,
    CredentialKeeper,
    RotatingConnectionPool,
)
from ephemeral_creds.events import PasswordChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds import CredentialProvider

__all__ = ["CHANGES", "TokenLoad"]

CHANGES = 5
"""How many changes of the token a load lasts for, at least."""

SECONDS = float(os.environ.get("EPHEMERAL_CREDS_TOKEN_LOAD", "0"))
"""How long a load lasts, at least."""

_QUERY = "SELECT pg_backend_pid()"


class TokenLoad:
    """Four workers with one pool, until the token has changed often enough.

    Two connections stay, and each worker opens one of its own from time to time, so that there are
    logins at every moment.

    Attributes:
        queries: how many succeeded.
        failures: what the others raised.
        backends: those of the first moment, and those of the last.
        changes: how often the token changed.
    """

    def __init__(self, provider: CredentialProvider, conninfo: str) -> None:
        self.queries = 0
        self.failures: list[str] = []
        self.backends: tuple[set[int], set[int]] = (set(), set())
        self._provider, self._conninfo = provider, conninfo
        self._events = Events()
        self._began = time.monotonic()
        self._done = threading.Event()

    @property
    def changes(self) -> int:
        """How often the token changed."""
        return len(self._events.of(PasswordChanged))

    def _is_enough(self) -> bool:
        lasted = time.monotonic() - self._began
        return bool(self.failures) or (self.changes >= CHANGES and lasted >= SECONDS)

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Load a pool for threads; `meanwhile` is called once in the middle of it."""
        keeper = CredentialKeeper(self._provider, refresh=EAGER, observers=[self._events])
        pool = RotatingConnectionPool(keeper, self._conninfo, min_size=2, max_size=2)
        with keeper, pool:
            pool.wait(PATIENCE)
            first = self._pids(pool)
            threads = [threading.Thread(target=self._work, args=[keeper, pool]) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                meanwhile()
                wait_until(self._is_enough, "changes", PATIENCE + SECONDS)
            finally:
                self._done.set()
                for thread in threads:
                    thread.join(PATIENCE)
            self.backends = first, self._pids(pool)
            assert pool.status().keeper.generation == 1

    def _work(self, keeper: CredentialKeeper, pool: RotatingConnectionPool[Any]) -> None:
        with RotatingConnectionPool(keeper, self._conninfo, min_size=0, max_size=1) as own:
            while not self._done.wait(0.005):
                try:
                    with pool.connection() as conn:
                        conn.execute(_QUERY)
                    with own.connection() as conn:
                        conn.execute(_QUERY)
                        conn.close()
                except psycopg.Error as error:
                    self.failures.append(str(error))
                else:
                    self.queries += 2

    def _pids(self, pool: RotatingConnectionPool[Any]) -> set[int]:
        borrowed = [pool.getconn(PATIENCE) for _ in range(2)]
        for conn in borrowed:
            pool.putconn(conn)
        return {conn.info.backend_pid for conn in borrowed}

    async def run_async(self) -> None:
        """Load a pool for asyncio."""
        async with (
            AsyncCredentialKeeper(
                self._provider, refresh=EAGER, observers=[self._events]
            ) as keeper,
            AsyncRotatingConnectionPool(keeper, self._conninfo, min_size=2, max_size=2) as pool,
        ):
            await pool.wait(PATIENCE)
            first = await self._pids_async(pool)
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(self._work_async(keeper, pool))
            self.backends = first, await self._pids_async(pool)
            assert pool.status().keeper.generation == 1

    async def _work_async(
        self, keeper: AsyncCredentialKeeper, pool: AsyncRotatingConnectionPool[Any]
    ) -> None:
        own: AsyncRotatingConnectionPool[psycopg.AsyncConnection[Any]]
        own = AsyncRotatingConnectionPool(keeper, self._conninfo, min_size=0, max_size=1)
        async with own:
            while not self._is_enough() and time.monotonic() < self._began + PATIENCE + SECONDS:
                try:
                    async with pool.connection() as conn:
                        await conn.execute(_QUERY)
                    async with own.connection() as conn:
                        await conn.execute(_QUERY)
                        await conn.close()
                except psycopg.Error as error:
                    self.failures.append(str(error))
                else:
                    self.queries += 2
                await asyncio.sleep(0.005)

    async def _pids_async(self, pool: AsyncRotatingConnectionPool[Any]) -> set[int]:
        borrowed = [await pool.getconn(PATIENCE) for _ in range(2)]
        for conn in borrowed:
            await pool.putconn(conn)
        return {conn.info.backend_pid for conn in borrowed}
