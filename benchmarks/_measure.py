"""What all measurements share: how much effort to spend, and how to compare two things."""

from __future__ import annotations

import math
import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "FULL",
    "QUICK",
    "Effort",
    "Figure",
    "compare",
    "in_turn",
    "least_of",
    "percentile",
    "run_threads",
]

T = TypeVar("T")

NOISE = 0.02
"""What a ratio differs by from run to run, as a share, with more or less else on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    generations: int
    """Fresh processes of each pool behind each checkout ratio."""
    turns: int
    """Turns, of a few milliseconds, of each such process."""
    at_once: tuple[int, ...]
    """Threads or tasks that query at the same time, for the ratio of a checkout as a whole."""
    peers: bool
    """Whether to compare latencies, which short runs say nothing about."""
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
    """Groups of fresh interpreters; of each group the fastest count."""
    leak_rotations: int
    """Rotations after which to look at what they left."""


FULL = Effort(
    generations=16, turns=40, at_once=(1, 16, 64), peers=True, rounds=5, segment=4.0, moves=3,
    vault_rotations=10, changes=40, idle=30.0, imports=8, leak_rotations=10_000,
)  # fmt: skip
QUICK = Effort(
    generations=6, turns=25, at_once=(), peers=False, rounds=1, segment=1.5, moves=1,
    vault_rotations=3, changes=5, idle=4.0, imports=3, leak_rotations=600,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, and by how much it may be off."""

    value: Any
    error: float = 0.0

    def __str__(self) -> str:
        shown = f"{self.value:.3f}" if isinstance(self.value, float) else str(self.value or 0)
        return f"{shown} ± {self.error:.3f}" if self.error else shown


def compare(ours: Sequence[float], control: Sequence[float]) -> Figure:
    """Return the median of ratios to a plain pool, and how far to trust it.

    Args:
        ours: our ratio, from each of several repetitions.
        control: a second plain pool's, from the same repetitions. How far they are from 1 is noise
            and nothing else: twice their standard error is the figure's error, or `NOISE` of it
            where that is more. Less than three tell nothing of it.
    """
    value, count = statistics.median(ours), len(control)
    if count < 3:
        return Figure(value, math.inf)
    # Of logarithms: half as much and twice as much are equally far off.
    distance = math.sqrt(sum(math.log(ratio) ** 2 for ratio in control) / count)
    return Figure(value, value * max(NOISE, math.expm1(2 * distance / math.sqrt(count))))


def in_turn(names: Sequence[T], turns: int) -> list[T]:
    """Return who goes when: each has `turns`, and another one goes first each time."""
    shifts = [number % len(names) for number in range(turns)]
    return [name for at in shifts for name in (*names[at:], *names[:at])]


def least_of(contenders: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Return the least that each of them took in many turns.

    Whatever else a machine does makes a turn dearer and never cheaper.
    """
    least = dict.fromkeys(contenders, math.inf)
    for name in in_turn(list(contenders), turns):
        least[name] = min(least[name], contenders[name]())
    return least


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value of a sorted sequence that `share` of it does not exceed."""
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


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
