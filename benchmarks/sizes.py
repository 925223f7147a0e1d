"""How many connections a rotation needs, and how long it takes, for pools of several sizes."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks._contenders import UNLIMITED
from benchmarks._measure import Figure, compare, run_threads
from benchmarks._world import RoleProvider, Roles, slow_class
from ephemeral_creds import (
    CredentialKeeper,
    Credentials,
    Event,
    RotatingConnectionPool,
    RotationPolicy,
)
from ephemeral_creds.events import CredentialsIssued, PoolRotated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks._measure import Effort
    from benchmarks._world import SlowConnection
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure"]

# Pool size, overshoot, and seconds added to each connect. A larger pool needs a larger overshoot
# to move in seconds, and then a longer connect: a login costs client and server several
# milliseconds of processor time, and what is measured is waiting, not a lack of processors.
CASES = ((20, 2, 0.05), (100, 4, 0.05), (400, 8, 0.1))
THREADS = 8
PAUSE = 0.005
_PATIENCE = 120.0


class _Stopwatch:
    """Notes when a grant was issued and when the pool has moved to it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._issued: dict[int, float] = {}
        self._rotated: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        with self._changed:
            if isinstance(event, CredentialsIssued):
                self._issued[event.generation] = now
            elif isinstance(event, PoolRotated):
                self._rotated[event.generation] = now
            self._changed.notify_all()

    def wait(self, generation: int) -> float:
        """Return how many seconds the move to `generation` took, proof and all."""
        with self._changed:
            if not self._changed.wait_for(lambda: generation in self._rotated, _PATIENCE):
                raise TimeoutError(f"generation {generation} is not in use in {_PATIENCE:g} s")
            return self._rotated[generation] - self._issued[generation]


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    cases = [_case(server, effort, *case) for case in CASES]
    worst = max(min(case.ratios) for case in cases)
    return {
        "peak_over": Figure(max(case.details["peak_over"] for case in cases)),
        "move_ratio": compare([worst], [drift for case in cases for drift in case.drifts]),
    }, {f"{size} connections": case.details for (size, *_), case in zip(CASES, cases, strict=True)}


class _Case(NamedTuple):
    ratios: list[float]
    # What a connect took after the move, to what it took before: noise alone.
    drifts: list[float]
    details: dict[str, Any]


def _case(server: PostgresServer, effort: Effort, size: int, overshoot: int, delay: float) -> _Case:
    roles, watch, slow = Roles(server, f"bench_move_{size}"), _Stopwatch(), slow_class()
    keeper = CredentialKeeper(RoleProvider(roles), refresh=UNLIMITED, observers=(watch,))
    keeper.start()
    pool = RotatingConnectionPool(
        keeper,
        server.conninfo(),
        connection_class=slow,
        kwargs={"autocommit": True},
        rotation=RotationPolicy(overshoot=overshoot),
        min_size=size,
        num_workers=8,
    )
    try:
        pool.open(wait=True, timeout=_PATIENCE)
        slow.delay = delay
        ratios, drifts, connects = [], [], []
        with _load(pool):
            for _ in range(effort.moves):
                before = _connect_time(server, delay, overshoot)
                moved = watch.wait(keeper.refresh().generation)
                after = _connect_time(server, delay, overshoot)
                connects += [before, after]
                ratios.append(moved / (size / overshoot * (before + after) / 2))
                drifts.append(after / before)
        details = {
            "overshoot": overshoot,
            "connect_ms": round(statistics.median(connects) * 1000, 1),
            "ratio": round(min(ratios), 3),
            "peak": slow.census.peak,
            "peak_over": slow.census.peak - (size + overshoot),
        }
        return _Case(ratios, drifts, details)
    finally:
        pool.close()
        keeper.close()
        roles.close()


@contextmanager
def _load(pool: RotatingConnectionPool[SlowConnection]) -> Iterator[None]:
    """Keep a pool busy."""
    ended = threading.Event()

    def work(_: float) -> None:
        while not ended.wait(PAUSE):
            with pool.connection() as conn:
                conn.execute("SELECT 1")

    load = threading.Thread(target=lambda: run_threads(THREADS, 0.0, work))
    load.start()
    try:
        yield
    finally:
        ended.set()
        load.join()


def _connect_time(server: PostgresServer, delay: float, at_once: int) -> float:
    """Return how long a connect takes on average, with as many at once as a move has."""
    slow = slow_class()
    slow.delay = delay
    credentials = Credentials(server.superuser, server.password)

    def work(_: float) -> list[float]:
        found = []
        for _ in range(5):
            began = time.perf_counter()
            conn = slow.connect(
                server.conninfo(),
                user=credentials.username,
                password=credentials.password.reveal(),
                autocommit=True,
            )
            found.append(time.perf_counter() - began)
            conn.close()
        return found

    return statistics.fmean(chain.from_iterable(run_threads(at_once, 0.0, work)))
