"""Writes a run's figures into the documentation: a table in the page, and a plot beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks._measure import Figure

__all__ = ["BEGIN", "END", "write"]

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "speed.md"
PLOT = PAGE.with_name("rotation.svg")
BEGIN, END = "<!-- begin: written by the benchmark -->", "<!-- end: written by the benchmark -->"

_CONTENDERS = {
    "static": "never rotating",
    "ours": "this pool",
    "drain": "drain()",
    "swap": "two pools",
}


def write(
    figures: Mapping[str, Figure],
    details: Mapping[str, Any],
    machine: Mapping[str, Any],
    page: Path = PAGE,
    plot: Path = PLOT,
) -> None:
    """Replace what is between the page's marks, and the plot.

    Args:
        figures: by the key of their target.
        details: by section; the plot is of ``rotation``, and stays as it is without it.
        machine: what it ran on.
        page: the Markdown file.
        plot: the SVG file.
    """
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    tables = [_machine(machine), _targets(figures)]
    if "rotation_p999_ratio_0" in figures:
        tables.append(_latencies(details["rotation"]))
        _plot(details["rotation"], plot)
    middle = "\n\n".join(tables)
    page.write_text(f"{before}{BEGIN}\n\n{middle}\n\n{END}{after}", encoding="utf-8")


def _machine(machine: Mapping[str, Any]) -> str:
    loads = " / ".join(str(load) for load in machine["load_average"])
    return (
        f"{machine['processors']} processors, {machine['system']}, Python {machine['python']}, "
        f"{machine.get('postgresql', 'no PostgreSQL')}, psycopg {machine['psycopg']}, "
        f"psycopg_pool {machine['psycopg-pool']}; load average at the start: {loads}."
    )


def _targets(figures: Mapping[str, Figure]) -> str:
    rows = ["| figure | measured | target | | what it is |", "|---|---|---|---|---|"]
    for target in TARGETS:
        if figure := figures.get(target.key):
            verdict = {"met": "", "missed": "**missed**"}.get(v := target.verdict(figure), v)
            aim = f"{target.relation} {target.bound or 0}"
            rows.append(f"| `{target.key}` | {figure} | {aim} | {verdict} | {target.meaning} |")
    return "\n".join(rows)


def _latencies(rotation: Mapping[str, Any]) -> str:
    rows = [
        "Checkouts in ms, with a rotation every two seconds: the slowest thousandth, and the",
        "slowest.",
        "",
        "| connects slower by | " + " | ".join(_CONTENDERS.values()) + " |",
        "|---" * (len(_CONTENDERS) + 1) + "|",
    ]
    for latency, found in _by_latency(rotation).items():
        cells = [f"{found[c]['p999_ms']:.2f}, {found[c]['max_ms']:.1f}" for c in _CONTENDERS]
        rows.append(f"| {latency} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _by_latency(rotation: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rotation.items() if key.endswith(" ms")}


def _plot(rotation: Mapping[str, Any], path: Path) -> None:
    # Only here: measuring without writing does not need it.
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rotation"  # the same figures give the same file
    from matplotlib import pyplot as plt

    found = _by_latency(rotation)
    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.2), sharey=True)
    for ax, (latency, contenders) in zip(axes, found.items(), strict=True):
        places = range(len(_CONTENDERS))
        tails = [contenders[name]["p999_ms"] for name in _CONTENDERS]
        slowest = [contenders[name]["max_ms"] for name in _CONTENDERS]
        ax.bar(places, slowest, color="#c9d6e8", label="slowest")
        ax.bar(places, tails, color="#3b6fb0", label="99.9 %")
        ax.set_yscale("log")
        ax.set_xticks(list(places), list(_CONTENDERS.values()), rotation=35, ha="right")
        ax.set_title(f"connects {latency} slower", fontsize=10)
    axes[0].set_ylabel("checkout, ms")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
