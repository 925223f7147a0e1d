"""What callers notice of a rotation every two seconds, at several connect latencies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks._contenders import Contender, Control, Drain, Ours, Static, Swap
from benchmarks._measure import percentile, run_threads

if TYPE_CHECKING:
    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure"]

LATENCIES = (0, 50, 200)
"""What is added to each connect, in milliseconds."""
SIZE = 20
THREADS = 16
# Half of what the machine can do, roughly: a tail that only shows the scheduler hides ours.
PAUSE = 0.002
EVERY = 2.0
_SETTLE = 30.0


@dataclass(slots=True)
class _Seen:
    """What the callers of one contender have seen, over all its turns."""

    checkouts: list[float] = field(default_factory=list)
    with_query: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    def sort(self) -> None:
        """Make ready to be asked for percentiles."""
        self.checkouts.sort()
        self.with_query.sort()

    @property
    def p999(self) -> float:
        """The slowest thousandth begins here."""
        return percentile(self.checkouts, 0.999)

    @property
    def max(self) -> float:
        """The slowest checkout."""
        return self.checkouts[-1]

    def in_short(self) -> dict[str, float]:
        """Return what is worth telling, in milliseconds."""
        shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        found = {name: percentile(self.checkouts, share) for name, share in shares.items()}
        found["with_query_p999"] = percentile(self.with_query, 0.999)
        return {
            "per_second": round(len(self.checkouts) / self.seconds),
            "errors": self.errors,
            **{f"{name}_ms": round(value * 1000, 3) for name, value in found.items()},
        }


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures and details."""
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    errors: Counter[str] = Counter()
    contenders = [kind(server, SIZE) for kind in (Static, Ours, Drain, Swap, Control)]
    try:
        for latency in LATENCIES:
            # Of all turns together: the slowest checkouts of a single one are the scheduler's.
            seen = {contender.name: _Seen() for contender in contenders}
            for number in range(effort.rounds):
                # Each goes first in its turn.
                at = number % len(contenders)
                for contender in contenders[at:] + contenders[:at]:
                    _turn(contender, latency / 1000, effort.segment, seen[contender.name])
            for name, found in seen.items():
                found.sort()
                errors[name] += found.errors
            ours, static = seen["ours"], seen["static"]
            peers = seen["drain"], seen["swap"]
            figures |= {
                f"rotation_p999_ratio_{latency}": ours.p999 / static.p999,
                f"rotation_max_ratio_{latency}": ours.max / static.max,
                f"rotation_p999_vs_peers_{latency}": ours.p999 / min(p.p999 for p in peers),
                f"rotation_max_vs_peers_{latency}": ours.max / min(p.max for p in peers),
            }
            details[f"{latency} ms"] = {name: found.in_short() for name, found in seen.items()} | {
                "control_p999_ratio": round(seen["control"].p999 / static.p999, 3),
                "control_max_ratio": round(seen["control"].max / static.max, 3),
            }
        for contender in contenders:
            details[f"peak of {contender.name}"] = contender.slow.census.peak
    finally:
        for contender in contenders:
            contender.close()
    figures["rotation_errors"] = errors["ours"]
    details["errors"] = dict(errors)
    return figures, details


def _turn(contender: Contender, delay: float, seconds: float, seen: _Seen) -> None:
    """Put load on a contender while it rotates, and note what its callers see."""
    contender.slow.delay = delay
    ended = threading.Event()
    failures: list[Exception] = []

    def rotate() -> None:
        # The first rotation falls into the load, not before it.
        while not ended.wait(EVERY / 4):
            try:
                contender.rotate()
            except Exception as error:
                failures.append(error)
            if ended.wait(EVERY * 3 / 4):
                return

    rotator = threading.Thread(target=rotate)
    rotator.start()
    try:
        results = run_threads(THREADS, seconds, lambda stop: _work(contender, stop))
    finally:
        ended.set()
        rotator.join()
    if failures:
        raise failures[0]
    _settle(contender)
    seen.seconds += seconds
    for checkouts, with_query, errors in results:
        seen.checkouts += checkouts
        seen.with_query += with_query
        seen.errors += errors


def _work(contender: Contender, stop: float) -> tuple[list[float], list[float], int]:
    latencies: list[float] = []
    whole: list[float] = []
    errors = 0
    while (began := time.perf_counter()) < stop:
        pool = contender.pool
        try:
            conn = pool.getconn()
            latencies.append(time.perf_counter() - began)
            try:
                conn.execute("SELECT 1")
            finally:
                pool.putconn(conn)
            whole.append(time.perf_counter() - began)
        except Exception:
            errors += 1
        time.sleep(PAUSE)
    return latencies, whole, errors


def _settle(contender: Contender) -> None:
    """Let the last rotation end, so that it does not disturb who comes next."""
    deadline = time.perf_counter() + _SETTLE
    while not contender.settled and time.perf_counter() < deadline:
        time.sleep(0.02)
    if not contender.settled:
        raise TimeoutError(f"{contender.name} has not finished its rotation in {_SETTLE:g} s")
