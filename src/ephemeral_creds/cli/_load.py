"""Worker threads on one pool, and a census of its connections and roles in PostgreSQL."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import PostgresServer

__all__ = ["APPLICATION", "Census", "Workload"]

APPLICATION = "ephemeral-creds-demo"
"""The ``application_name`` of the pool's connections."""

# Between two transactions a service does something else as well. It also leaves the processor,
# which the servers share, free enough that latencies tell about the pool.
_PAUSE = 0.01
_AFTER_FAILURE = 0.1
_KINDS = 20  # distinct failures that are remembered

_INTERVAL = 0.05  # seconds; a role lives for some ten seconds, a connection for almost as long
_CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
_ROLES = "SELECT rolname, rolvaliduntil::text FROM pg_roles WHERE starts_with(rolname, 'v-')"


class Workload:
    """Runs transactions in threads until it is closed."""

    def __init__(self, pool: RotatingConnectionPool[Any], workers: int) -> None:
        self._pool = pool
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._failed = 0
        # Eight bytes each, for some thousand transactions a second. One thread writes to each.
        self._latencies = [array("d") for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(workers)
        ]

    @property
    def committed(self) -> int:
        """Transactions that succeeded."""
        return sum(map(len, self._latencies))

    @property
    def failed(self) -> int:
        """Transactions that did not."""
        return self._failed

    @property
    def failures(self) -> dict[str, int]:
        """What they failed with, and how often."""
        with self._lock:
            return dict(self._failures)

    def latencies(self) -> list[float]:
        """Return how long those that succeeded took, in seconds, checkout included; sorted."""
        return sorted(seconds for latencies in self._latencies for seconds in latencies)

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let each finish its transaction, and wait for that. May be called again."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, number: int) -> None:
        latencies = self._latencies[number]
        while not self._stopping.wait(_PAUSE):
            begun = time.perf_counter()
            try:
                with self._pool.connection() as connection:
                    _transaction(connection, number, len(latencies) + 1)
            except Exception as error:  # noqa: BLE001 - every failure counts, of whatever kind
                self._remember(error)
                self._stopping.wait(_AFTER_FAILURE)
            else:
                latencies.append(time.perf_counter() - begun)

    def _remember(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        with self._lock:
            self._failed += 1
            if text in self._failures or len(self._failures) < _KINDS:
                self._failures[text] += 1


def _transaction(connection: psycopg.Connection[Any], worker: int, number: int) -> None:
    connection.execute("INSERT INTO entries (worker, number) VALUES (%s, %s)", [worker, number])
    connection.execute("UPDATE totals SET total = total + 1 WHERE worker = %s", [worker])
    connection.execute("SELECT total FROM totals WHERE worker = %s", [worker]).fetchone()


class Census:
    """Samples connections and roles in a thread of its own, as PostgreSQL's superuser.

    Attributes:
        peak_connections: the most connections of the pool that PostgreSQL had at once, in two
            looks in a row.
        renewals: how often a role's VALID UNTIL was seen to move.
        error: why sampling ended early; ``None`` if it did not.
    """

    def __init__(self, postgres: PostgresServer) -> None:
        self.peak_connections = 0
        self.renewals = 0
        self.error: str | None = None
        self._postgres = postgres
        self._last_pids: set[int] = set()
        self._valid_until: dict[str, str | None] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-census", daemon=True)

    @property
    def roles_seen(self) -> int:
        """How many roles of ours there have been."""
        return len(self._valid_until)

    def start(self) -> None:
        """Start to sample."""
        self._thread.start()

    def close(self) -> None:
        """Stop. May be called again."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._postgres.admin()) as connection:
                while not self._stopping.wait(_INTERVAL):
                    self._sample(connection)
        except psycopg.Error as error:
            self.error = f"{type(error).__name__}: {error}"

    def _sample(self, connection: psycopg.Connection) -> None:
        pids = {pid for (pid,) in connection.execute(_CONNECTIONS, [APPLICATION])}
        # A server process outlives its connection by some milliseconds. What the pool opens for
        # less than the time between two looks, it counts itself.
        self.peak_connections = max(self.peak_connections, len(pids & self._last_pids))
        self._last_pids = pids
        for role, until in connection.execute(_ROLES):
            self.renewals += self._valid_until.get(role, until) != until
            self._valid_until[role] = until
