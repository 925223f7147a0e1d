"""What is aimed at, and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks._measure import Figure

__all__ = ["TARGETS", "Target", "table"]


SMALL = 0.05
"""An error of this share of the bound is small."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound: ``>=`` or ``<=`` a number, or ``==`` a value."""

    key: str
    relation: str
    bound: Any
    meaning: str

    def verdict(self, figure: Figure) -> str:
        """Return ``met``, ``missed`` or ``undecided``.

        Missed is what lies beyond the bound by more than its error. Where the bound is within the
        error, a small error is good enough to call it met, and a large one decides nothing.
        """
        if self.relation == "==":
            return "met" if figure.value == self.bound else "missed"
        distance = figure.value - self.bound
        if figure.error and abs(distance) <= figure.error:
            return "met" if figure.error <= SMALL * self.bound else "undecided"
        return "met" if (distance >= 0 if self.relation == ">=" else distance <= 0) else "missed"


TARGETS = (
    Target("checkout_ratio", ">=", 0.98, "CPU of checkout and SELECT 1, psycopg_pool's to ours"),
    Target("bare_ratio", ">=", 0.90, "CPU of getconn and putconn, psycopg_pool's to ours"),
    Target("async_checkout_ratio", ">=", 0.98, "the same as checkout_ratio, async"),
    Target("async_bare_ratio", ">=", 0.90, "the same as bare_ratio, async"),
    *(
        target
        for latency in (0, 50, 200)
        for target in (
            Target(
                f"rotation_p999_ratio_{latency}", "<=", 1.2,
                f"99.9 % of checkouts while rotating, connects {latency} ms slower: to static",
            ),
            Target(f"rotation_max_ratio_{latency}", "<=", 2.0, "the slowest checkout: to static"),
            Target(f"rotation_p999_vs_peers_{latency}", "<=", 1.0, "99.9 %: to the better peer"),
            Target(f"rotation_max_vs_peers_{latency}", "<=", 1.0, "slowest: to the better peer"),
        )
    ),
    Target("rotation_errors", "==", 0, "failed checkouts and queries while rotating"),
    Target("peak_over", "<=", 0, "connections beyond max_size + overshoot"),
    Target("move_ratio", "<=", 1.3, "time to move a pool, to size / overshoot connects"),
    Target("vault_requests_per_rotation", "==", 2, "a mint and a revocation"),
    Target("vault_requests_per_renewal", "==", 1, "a renewal"),
    Target("watch_median_ms", "<=", 50.0, "from a file's replacement to the call, inotify"),
    Target("poll_cpu_percent", "<=", 0.1, "of one processor, looking at an unchanged file"),
    Target("scrape_cpu_percent", "<=", 0.5, "of one processor, a scrape each second of a pool"),
    Target("import_ratio", "<=", 1.2, "CPU of importing the pool, to psycopg_pool's"),
    Target("import_strays", "==", [], "of hvac, requests, watchdog, tenacity: imported with it"),
    Target("memory_per_connection", "<=", 1024, "bytes of a connection beyond psycopg_pool's"),
    # Less than a pointer: nothing can be kept of each.
    Target("leak_bytes_per_rotation", "<=", 8, "bytes that stay of a rotation"),
)  # fmt: skip


def table(figures: Mapping[str, Figure]) -> str:
    """Return a line for each target."""
    lines = [f"{'figure':<30} {'measured':>15}  {'target':<8} {'':<9} meaning"]
    for target in TARGETS:
        figure = figures.get(target.key)
        shown, verdict = (figure, target.verdict(figure)) if figure else ("-", "not run")
        bound = f"{target.relation} {target.bound or 0}"
        verdict = verdict.upper() if verdict == "missed" else verdict
        lines.append(f"{target.key:<30} {shown!s:>15}  {bound:<8} {verdict:<9} {target.meaning}")
    return "\n".join(lines)
