"""The service that must not notice: threads that run transactions through one pool."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from ephemeral_creds.cli._histogram import Histogram

if TYPE_CHECKING:
    import psycopg

    from ephemeral_creds import RotatingConnectionPool

__all__ = ["Workload"]

# Between two transactions a service does something else as well. It also leaves the processor,
# which the servers share, free enough that latencies tell about the pool.
_PAUSE = 0.01
_AFTER_FAILURE = 0.1
_KINDS = 20  # distinct failures that are remembered


class _Tally:
    """What one worker has done; nobody else writes to it."""

    def __init__(self) -> None:
        self.committed = 0
        self.failed = 0
        self.latencies = Histogram()


class Workload:
    """Runs transactions until it is told to stop.

    Args:
        pool: what they check their connections out of.
        workers: the number of threads.
    """

    def __init__(self, pool: RotatingConnectionPool[Any], workers: int) -> None:
        self._pool = pool
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._tallies = [_Tally() for _ in range(workers)]
        self._threads = [
            threading.Thread(
                target=self._work, args=(number, tally), name=f"demo-worker-{number}", daemon=True
            )
            for number, tally in enumerate(self._tallies)
        ]

    @property
    def committed(self) -> int:
        """Transactions that succeeded."""
        return sum(tally.committed for tally in self._tallies)

    @property
    def failed(self) -> int:
        """Transactions that did not."""
        return sum(tally.failed for tally in self._tallies)

    @property
    def failures(self) -> dict[str, int]:
        """What they failed with, and how often."""
        with self._lock:
            return dict(self._failures)

    def latencies(self) -> Histogram:
        """Return how long those that succeeded took, checkout included."""
        merged = Histogram()
        for tally in self._tallies:
            merged.add(tally.latencies)
        return merged

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

    def _work(self, number: int, tally: _Tally) -> None:
        while not self._stopping.wait(_PAUSE):
            begun = time.perf_counter()
            try:
                with self._pool.connection() as connection:
                    _transaction(connection, number, tally.committed + 1)
            except Exception as error:  # noqa: BLE001 - every failure counts, of whatever kind
                tally.failed += 1
                self._remember(error)
                self._stopping.wait(_AFTER_FAILURE)
            else:
                tally.latencies.record(time.perf_counter() - begun)
                tally.committed += 1

    def _remember(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        with self._lock:
            if text in self._failures or len(self._failures) < _KINDS:
                self._failures[text] += 1


def _transaction(connection: psycopg.Connection[Any], worker: int, number: int) -> None:
    connection.execute("INSERT INTO entries (worker, number) VALUES (%s, %s)", [worker, number])
    connection.execute("UPDATE totals SET total = total + 1 WHERE worker = %s", [worker])
    connection.execute("SELECT total FROM totals WHERE worker = %s", [worker]).fetchone()
