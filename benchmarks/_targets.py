"""What is aimed at, and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TARGETS", "Target", "table"]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound: ``>=`` or ``<=`` a number, or ``==`` a value."""

    key: str
    relation: str
    bound: Any
    meaning: str

    def met(self, value: Any) -> bool:
        """Tell whether `value` is good enough."""
        if self.relation == "==":
            return bool(value == self.bound)
        return bool(value >= self.bound if self.relation == ">=" else value <= self.bound)


TARGETS = (
    Target("checkout_ratio", ">=", 0.98, "checkouts with SELECT 1 per second, to psycopg_pool's"),
    Target("bare_ratio", ">=", 0.90, "getconn and putconn per second, to psycopg_pool's"),
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
    Target("import_ratio", "<=", 1.2, "import of the pool, to import psycopg_pool"),
    Target("import_strays", "==", [], "of hvac, requests, watchdog, tenacity: imported with it"),
    Target("memory_per_connection", "<=", 1024, "bytes of a connection beyond psycopg_pool's"),
    # Less than a pointer: nothing can be kept of each.
    Target("leak_bytes_per_rotation", "<=", 8, "bytes that stay of a rotation"),
)  # fmt: skip


def table(figures: Mapping[str, Any]) -> str:
    """Return a line for each target."""
    lines = [f"{'figure':<30} {'measured':>9}  {'target':<8} {'':<7} meaning"]
    for target in TARGETS:
        value = figures.get(target.key)
        if value is None:
            shown, verdict = "-", "not run"
        else:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            verdict = "met" if target.met(value) else "MISSED"
        bound = f"{target.relation} {target.bound}"
        lines.append(f"{target.key:<30} {shown:>9}  {bound:<8} {verdict:<7} {target.meaning}")
    return "\n".join(lines)
