"""What all measurements share: how much effort to spend, and how to compare two things."""

from __future__ import annotations

import math
import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "FULL",
    "QUICK",
    "Effort",
    "compare",
    "percentile",
    "ratios",
    "run_threads",
    "schedule",
    "spread",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. Short slices, many of them: noise then hits both sides alike."""

    turns: int
    """Slices that each pool has behind each throughput ratio, interleaved."""
    slice: float
    """Seconds of one such slice."""
    bare_turns: int
    """The same for the bare getconn and putconn, in slices half as long."""
    rounds: int
    """How often each contender has its turn at each connect latency."""
    segment: float
    """Seconds of one turn."""
    moves: int
    """Rotations of each pool size."""
    vault_rotations: int
    changes: int
    """Changes of a credential file, each way, that are to be noticed."""
    idle: float
    """Seconds for which nothing changes."""
    imports: int
    """Interleaved pairs of fresh interpreters."""
    leak_rotations: int
    """Rotations after which to look at what they left."""


FULL = Effort(
    turns=200, slice=0.1, bare_turns=100, rounds=5, segment=4.0, moves=3,
    vault_rotations=10, changes=40, idle=30.0, imports=31, leak_rotations=10_000,
)  # fmt: skip
QUICK = Effort(
    turns=10, slice=0.1, bare_turns=20, rounds=1, segment=2.2, moves=1,
    vault_rotations=3, changes=5, idle=4.0, imports=5, leak_rotations=300,
)  # fmt: skip


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value of a sorted sequence that `share` of it does not exceed."""
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


def ratios(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> list[float]:
    """Measure both in turn and return ours / theirs of each pair.

    Who goes first changes from pair to pair, so that a drift favours nobody.
    """
    found = []
    for number in range(pairs):
        if number % 2:
            mine, other = ours(), theirs()
        else:
            other, mine = theirs(), ours()
        found.append(mine / other)
    return found


def schedule(names: Sequence[str], turns: int) -> list[str]:
    """Return who has which slice: each has `turns`, and another one goes first each time."""
    shifts = [number % len(names) for number in range(turns)]
    return [name for at in shifts for name in (*names[at:], *names[:at])]


def compare(order: Sequence[str], counts: Sequence[float], slice_seconds: float) -> dict[str, Any]:
    """Return what is worth telling of the work done in each slice of a `schedule`.

    The control is a second pool of the same kind as the plain one: how far its ratio is from 1
    is the noise.
    """
    of = {
        name: [n for who, n in zip(order, counts, strict=True) if who == name]
        for name in dict.fromkeys(order)
    }
    found: dict[str, Any] = {
        f"{name}_per_second": round(statistics.median(done) / slice_seconds)
        for name, done in of.items()
    }
    for name in ("ours", "control"):
        pairs = zip(of[name], of["plain"], strict=True)
        found[f"{name}_quartiles"] = spread([mine / other for mine, other in pairs])
    return found


def spread(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return [round(value, 4) for value in values] * 3
    return [round(quartile, 4) for quartile in statistics.quantiles(values, method="inclusive")]


def run_threads(count: int, seconds: float, work: Callable[[float], T]) -> list[T]:
    """Run `work` in `count` threads at once, each with the instant at which to stop."""
    results: list[T] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait()
            results.append(work(time.perf_counter() + seconds))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
