"""The benchmark runs, and its JSON has everything; how fast anything is, no test asserts."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are only in the source tree"
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command's module, with as little effort as there can be."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(module, "QUICK", replace(module.QUICK, imports=1))
    return module


@pytest.mark.slow
def test_it_ends_with_json_that_has_a_key_for_each_target(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--quick", "--only", "import", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    latencies = (0, 50, 200)
    assert {
        key for key in answer if key not in ("machine", "details", "verdicts", "errors", "quick")
    } == {
        "checkout_ratio",
        "bare_ratio",
        "async_checkout_ratio",
        "async_bare_ratio",
        *(f"rotation_p999_ratio_{ms}" for ms in latencies),
        *(f"rotation_max_ratio_{ms}" for ms in latencies),
        *(f"rotation_p999_vs_peers_{ms}" for ms in latencies),
        *(f"rotation_max_vs_peers_{ms}" for ms in latencies),
        "rotation_errors",
        "peak_over",
        "move_ratio",
        "vault_requests_per_rotation",
        "vault_requests_per_renewal",
        "watch_median_ms",
        "poll_cpu_percent",
        "scrape_cpu_percent",
        "import_ratio",
        "import_strays",
        "memory_per_connection",
        "leak_bytes_per_rotation",
    }
    assert answer["import_ratio"] > 0
    assert answer["import_strays"] == []
    assert answer["checkout_ratio"] is None
    assert answer["quick"] is True
    assert set(answer["verdicts"]) == set(answer["errors"]) == {"import_ratio", "import_strays"}
    assert answer["errors"]["import_ratio"] is None  # of one group, there is no telling
    assert list(answer["details"]) == ["import"]


def test_each_section_can_be_chosen(command: Any) -> None:
    assert (
        *("watch", "import", "checkout", "async", "rotation", "sizes", "vault"),
        *("metrics", "memory"),
    ) == command.SECTIONS


@pytest.fixture
def measure(command: Any) -> Any:  # for the path
    """The module of what all measurements share."""
    return importlib.import_module("benchmarks._measure")


@pytest.fixture
def targets(command: Any) -> Any:  # for the path
    """The module of targets."""
    return importlib.import_module("benchmarks._targets")


def test_percentiles_and_turns(measure: Any) -> None:
    values = [float(number) for number in range(1, 1001)]
    assert measure.percentile(values, 0.999) == 999.0
    assert measure.percentile([7.0], 0.999) == 7.0
    assert measure.in_turn(["a", "b", "c"], 4) == [*"abc", *"bca", *"cab", *"abc"]


def test_of_many_turns_the_cheapest_counts(measure: Any) -> None:
    calls: list[str] = []
    costs = {"ours": iter([3.0, 2.0, 9.0]), "plain": iter([1.5, 4.0, 1.0])}

    def turn(name: str) -> float:
        calls.append(name)
        return next(costs[name])

    contenders = {name: lambda name=name: turn(name) for name in costs}
    assert measure.least_of(contenders, 3) == {"ours": 2.0, "plain": 1.0}
    assert calls == ["ours", "plain", "plain", "ours", "ours", "plain"]


def test_the_error_is_two_standard_errors_of_the_control(measure: Any) -> None:
    figure = measure.compare([0.7, 0.8, 0.1, 0.9], [1.1, 1 / 1.1, 1.1, 1 / 1.1])
    assert figure.value == pytest.approx(0.75)
    assert figure.error == pytest.approx(0.75 * 0.1)  # each is off by a tenth, and there are four
    quiet = measure.compare([0.7, 0.8, 0.9], [1.0, 1.0, 1.0])
    assert quiet.error == pytest.approx(0.8 * 0.02)  # runs differ by more than the control tells
    assert math.isinf(measure.compare([0.7, 0.8], [1.0, 1.0]).error)


@pytest.mark.parametrize(
    ("relation", "bound", "value", "error", "verdict"),
    [
        (">=", 0.9, 0.9, 0.0, "met"),
        (">=", 0.9, 0.899, 0.0, "missed"),
        (">=", 0.9, 0.92, 0.01, "met"),
        (">=", 0.9, 0.89, 0.02, "met"),
        (">=", 0.9, 0.87, 0.02, "missed"),
        (">=", 0.9, 0.89, 0.05, "undecided"),
        (">=", 0.9, 0.92, 0.05, "undecided"),
        ("<=", 2.0, 0.2, 1.0, "met"),
        ("<=", 2.0, 2.09, 0.1, "met"),
        ("<=", 2.0, 2.11, 0.1, "missed"),
        ("<=", 2.0, 19.0, 1.0, "missed"),
        ("<=", 2.0, 0.2, math.inf, "undecided"),
        ("<=", 0, 0, 0.0, "met"),
        ("<=", 0, 1, 0.0, "missed"),
        ("==", [], [], 0.0, "met"),
        ("==", 2, 3.0, 0.0, "missed"),
    ],
)
def test_a_target_is_missed_only_beyond_the_error(
    targets: Any, measure: Any, relation: str, bound: Any, value: Any, error: float, verdict: str
) -> None:
    target = targets.Target("x", relation, bound, "")
    assert target.verdict(measure.Figure(value, error)) == verdict


def test_the_table_tells_figures_with_their_errors(targets: Any, measure: Any) -> None:
    figures = {"checkout_ratio": measure.Figure(0.5, 0.01), "peak_over": measure.Figure(0)}
    lines = {line.split()[0]: line for line in targets.table(figures).splitlines()[1:]}
    assert "0.500 ± 0.010" in lines["checkout_ratio"]
    assert "MISSED" in lines["checkout_ratio"]
    assert " met " in lines["peak_over"]
    assert "not run" in lines["move_ratio"]
