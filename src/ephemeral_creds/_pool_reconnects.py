"""When a pool connects again after a connect has failed."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeral_creds._policy import RotationPolicy
    from ephemeral_creds._pool_connect import ConnectFailure

__all__ = ["Reconnects"]

# Before what nobody has explained is tried again, in seconds.
_UNEXPLAINED = 0.25


class Reconnects:
    """Backs off, tries one connection first, and starts afresh with new credentials.

    psycopg_pool retries each of its connections on a plan of its own, which doubles without bound
    and cannot be told that things have changed. It is made to give up at once instead, and what
    it gave up is opened again when the time has come.

    Args:
        policy: the delays.
    """

    def __init__(self, policy: RotationPolicy) -> None:
        self.last_failure: ConnectFailure | None = None
        self._policy = policy
        self._lock = threading.RLock()  # as in `Ledger`
        self._failures = 0
        self._failed_generation = 0
        self._retry_at = self._restore_at = -math.inf
        self._failing_since: float | None = None
        self._outage_told = False
        self._lost = False

    def failed(self, failure: ConnectFailure, generation: int, now: float) -> None:
        """A connect with `generation` failed; until it is time, further ones fail at once.

        Connects that were under way when the first of them failed count as one failure.
        """
        with self._lock:
            if now >= self._retry_at:
                self._failures += 1
                self._retry_at = now + self._policy.retry_after(self._failures)
                self._restore_at = self._retry_at
            self._failing_since = now if self._failing_since is None else self._failing_since
            self._failed_generation = max(self._failed_generation, generation)
            self.last_failure = failure

    def succeeded(self) -> bool:
        """A connect succeeded; returns whether there is something to open again."""
        with self._lock:
            self._start_afresh()
            self.last_failure = None
            self._failing_since, self._outage_told = None, False
        return self._lost

    def renewed(self, generation: int) -> None:
        """There are new credentials: what failed with older ones says nothing of them."""
        with self._lock:
            if self._failed_generation <= generation:
                self._start_afresh()

    def barred_for(self, generation: int, now: float) -> float:
        """Return in how many seconds there may be another connect with `generation`."""
        with self._lock:
            same = generation <= self._failed_generation
            return max(self._retry_at - now, 0.0) if same else 0.0

    def barred(self, generation: int, now: float) -> Exception | None:
        """Return what the last connect failed with, if it is too early for another."""
        failure = self.last_failure
        if failure is not None and self.barred_for(generation, now):
            return failure.error
        return None

    def lost(self, now: float, patience: float) -> bool:
        """psycopg_pool gave up opening one of its connections.

        Where no connect is known to have failed, something around it did, or it was put right
        meanwhile: a moment passes in any case.

        Returns:
            True once per outage, when every connect has failed for `patience` seconds.
        """
        with self._lock:
            self._lost = True
            if not self._failures:
                self._restore_at = max(self._restore_at, now + _UNEXPLAINED)
            since = self._failing_since
            if self._outage_told or since is None or now - since < patience:
                return False
            self._outage_told = True
            return True

    def due_in(self, now: float) -> float | None:
        """Return in how many seconds to open again what was lost; ``None`` where nothing was."""
        return max(self._restore_at - now, 0.0) if self._lost else None

    def take_due(self, now: float) -> bool:
        """Tell whether to open again what was lost; asking takes it."""
        with self._lock:
            if self.due_in(now) != 0.0:
                return False
            self._lost = False
            if self._failures:
                # Until the one that is tried has an answer, or takes too long to get one.
                self._restore_at = now + self._policy.retry_after(self._failures)
            return True

    def missing(self, stats: Mapping[str, int], min_size: int, max_size: int) -> int:
        """Return how many connections psycopg_pool should have opened, and has given up.

        Args:
            stats: the pool's counters.
            min_size: how many it should have at least.
            max_size: how many it may have, where clients are waiting.
        """
        size, waiting = stats["pool_size"], stats.get("requests_waiting", 0)
        missing = max(min_size - size, min(waiting, max_size - size), 0)
        if missing and self._failures:
            # One is enough to find out whether it works again.
            self._lost = True
            return 1
        return missing

    def _start_afresh(self) -> None:
        self._failures, self._retry_at, self._restore_at = 0, -math.inf, -math.inf
