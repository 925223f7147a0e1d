"""A load on a pool while its source changes credentials: queries, and logins at every moment."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Self

import psycopg
from minting import PATIENCE
from twins import wait_until

if TYPE_CHECKING:
    from ephemeral_creds import RotatingConnectionPool

__all__ = ["LOAD_SECONDS", "PoolLoad"]

LOAD_SECONDS = float(os.environ.get("EPHEMERAL_CREDS_LOAD_SECONDS", "0"))
"""How long a load lasts at least, after its changes; 60 for the figures of a release."""


class PoolLoad:
    """Four threads that query without a pause, and close a connection now and then.

    Attributes:
        operations: how many have succeeded.
        failures: the text of each error.
        backends: the processes of PostgreSQL that have answered.
    """

    def __init__(self, pool: RotatingConnectionPool, workers: int = 4) -> None:
        self.operations = 0
        self.failures: list[str] = []
        self.backends: set[int] = set()
        self._pool = pool
        self._over = threading.Event()
        self._begun = time.monotonic()
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        left = self._begun + LOAD_SECONDS - time.monotonic()
        if error[0] is None and left > 0:
            self._over.wait(left)
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def goes_on(self, more: int = 20) -> None:
        """Wait until some more operations have succeeded, or one has failed."""
        wanted = self.operations + more
        wait_until(lambda: self.failures or self.operations >= wanted, "operations")

    def _work(self) -> None:
        count = 0
        while not self._over.wait(0.01):
            count += 1
            try:
                with self._pool.connection() as conn:
                    conn.execute("SELECT current_user").fetchone()
                    self.backends.add(conn.info.backend_pid)
                if count % 10 == 0:
                    # As a busy service would: so that there are logins at every moment.
                    with self._pool.connection() as conn:
                        conn.close()
            except psycopg.Error as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.operations += 1
