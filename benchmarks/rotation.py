"""What callers notice of a rotation every two seconds, at several connect latencies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks._contenders import Contender, Control, Drain, Ours, Static, Swap
from benchmarks._measure import Figure, compare, in_turn, percentile, run_threads

if TYPE_CHECKING:
    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure"]

LATENCIES = (0, 50, 200)
"""What is added to each connect, in milliseconds."""
TAILS = {"p999": 0.999, "max": 1.0}
"""What is judged: of each turn, since the slowest checkouts of one turn may have other causes."""
SIZE = 20
THREADS = 16
# Half of what the machine can do, roughly: a tail that only shows the scheduler hides ours.
PAUSE = 0.002
EVERY = 2.0
_SETTLE = 30.0


@dataclass(slots=True)
class _Seen:
    """What the callers of one contender have seen."""

    checkouts: list[float] = field(default_factory=list)
    with_query: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    def add(self, other: _Seen) -> None:
        """Add what was seen in another turn."""
        self.checkouts += other.checkouts
        self.with_query += other.with_query
        self.errors += other.errors
        self.seconds += other.seconds

    def slowest(self, share: float) -> float:
        """Return what `share` of the checkouts did not exceed."""
        return percentile(sorted(self.checkouts), share)

    def in_short(self) -> dict[str, float]:
        """Return what is worth telling, in milliseconds."""
        shares = {"p50": 0.5, "p99": 0.99, **TAILS}
        found = {name: self.slowest(share) for name, share in shares.items()}
        found["with_query_p999"] = percentile(sorted(self.with_query), 0.999)
        return {
            "per_second": round(len(self.checkouts) / self.seconds),
            "errors": self.errors,
            **{f"{name}_ms": round(value * 1000, 3) for name, value in found.items()},
        }


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    errors: Counter[str] = Counter()
    kinds = (Static, Ours, Drain, Swap, Control) if effort.peers else (Ours,)
    contenders = [kind(server, SIZE) for kind in kinds]
    try:
        for latency in LATENCIES:
            turns: dict[str, list[_Seen]] = {contender.name: [] for contender in contenders}
            for contender in in_turn(contenders, effort.rounds):
                seen = _turn(contender, latency / 1000, effort.segment)
                turns[contender.name].append(seen)
                errors[contender.name] += seen.errors
            if effort.peers:
                figures |= _compare(turns, latency)
            details[f"{latency} ms"] = {name: _together(each) for name, each in turns.items()}
        for contender in contenders:
            details[f"peak of {contender.name}"] = contender.slow.census.peak
    finally:
        for contender in contenders:
            contender.close()
    figures["rotation_errors"] = Figure(errors["ours"])
    details["errors"] = dict(errors)
    return figures, details


def _compare(turns: dict[str, list[_Seen]], latency: int) -> dict[str, Figure]:
    figures = {}
    for tail, share in TAILS.items():
        found = {name: [turn.slowest(share) for turn in each] for name, each in turns.items()}
        peers = [min(both) for both in zip(found["drain"], found["swap"], strict=True)]
        control = _ratios(found["control"], found["static"])
        for against, theirs in (("ratio", found["static"]), ("vs_peers", peers)):
            ours = _ratios(found["ours"], theirs)
            figures[f"rotation_{tail}_{against}_{latency}"] = compare(ours, control)
    return figures


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def _together(turns: list[_Seen]) -> dict[str, float]:
    seen = _Seen()
    for turn in turns:
        seen.add(turn)
    return seen.in_short()


def _turn(contender: Contender, delay: float, seconds: float) -> _Seen:
    """Put load on a contender while it rotates, and return what its callers see."""
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
    together = _Seen(seconds=seconds)
    for seen in results:
        together.add(seen)
    return together


def _work(contender: Contender, stop: float) -> _Seen:
    seen = _Seen()
    while (began := time.perf_counter()) < stop:
        pool = contender.pool
        try:
            conn = pool.getconn()
            seen.checkouts.append(time.perf_counter() - began)
            try:
                conn.execute("SELECT 1")
            finally:
                pool.putconn(conn)
            seen.with_query.append(time.perf_counter() - began)
        except Exception:
            seen.errors += 1
        time.sleep(PAUSE)
    return seen


def _settle(contender: Contender) -> None:
    """Let the last rotation end, so that it does not disturb who comes next."""
    deadline = time.perf_counter() + _SETTLE
    while not contender.settled and time.perf_counter() < deadline:
        time.sleep(0.02)
    if not contender.settled:
        raise TimeoutError(f"{contender.name} has not finished its rotation in {_SETTLE:g} s")
