"""What callers notice of a rotation every two seconds, at several connect latencies."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
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


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures and details."""
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    errors: Counter[str] = Counter()
    contenders = [kind(server, SIZE) for kind in (Static, Ours, Drain, Swap, Control)]
    try:
        for latency in LATENCIES:
            turns: dict[str, list[dict[str, float]]] = {c.name: [] for c in contenders}
            for number in range(effort.rounds):
                # Each goes first in its turn.
                at = number % len(contenders)
                for contender in contenders[at:] + contenders[:at]:
                    turn = _turn(contender, latency / 1000, effort.segment)
                    errors[contender.name] += int(turn["errors"])
                    turns[contender.name].append(turn)
            middle: dict[str, Any] = {name: _middle(found) for name, found in turns.items()}
            for key in ("p999", "max"):
                against = {
                    name: _ratio(turns["ours"], turns[name], key)
                    for name in ("static", "drain", "swap")
                }
                figures[f"rotation_{key}_ratio_{latency}"] = against["static"]
                peers = max(against["drain"], against["swap"])
                figures[f"rotation_{key}_vs_peers_{latency}"] = peers
                middle["control"][f"{key}_ratio"] = _ratio(turns["control"], turns["static"], key)
            details[f"{latency} ms"] = middle
        for contender in contenders:
            details[f"peak of {contender.name}"] = contender.slow.census.peak
    finally:
        for contender in contenders:
            contender.close()
    figures["rotation_errors"] = errors["ours"]
    details["errors"] = dict(errors)
    return figures, details


def _turn(contender: Contender, delay: float, seconds: float) -> dict[str, float]:
    """Put load on a contender while it rotates; return percentiles of its checkouts."""
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
    latencies = sorted(latency for found, _, _ in results for latency in found)
    whole = sorted(latency for _, found, _ in results for latency in found)
    return {
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "p999": percentile(latencies, 0.999),
        "max": latencies[-1],
        "with_query_p999": percentile(whole, 0.999),
        "per_second": len(latencies) / seconds,
        "errors": sum(errors for _, _, errors in results),
    }


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


def _ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str) -> float:
    """Return the median of the ratios round by round."""
    pairs = zip(ours, theirs, strict=True)
    return round(statistics.median(mine[key] / other[key] for mine, other in pairs), 3)


def _middle(turns: list[dict[str, float]]) -> dict[str, float]:
    """Return the median turn, latencies in milliseconds."""
    middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return {
        "per_second": round(middle.pop("per_second")),
        "errors": sum(turn["errors"] for turn in turns),
        **{f"{key}_ms": round(value * 1000, 3) for key, value in middle.items() if key != "errors"},
    }
