"""The benchmark runs, and its JSON has everything; how fast anything is, no test asserts."""

from __future__ import annotations

import importlib
import json
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
    assert {key for key in answer if key not in ("machine", "details", "missed", "quick")} == {
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
        "import_ratio",
        "import_strays",
        "memory_per_connection",
        "leak_bytes_per_rotation",
    }
    assert answer["import_ratio"] > 0
    assert answer["import_strays"] == []
    assert answer["checkout_ratio"] is None
    assert answer["quick"] is True
    assert set(answer["missed"]) <= {"import_ratio"}
    assert list(answer["details"]) == ["import"]


def test_each_section_can_be_chosen(command: Any) -> None:
    assert (
        *("watch", "import", "checkout", "async", "rotation", "sizes", "vault", "memory"),
    ) == command.SECTIONS


def test_percentiles_and_turns(command: Any) -> None:  # for the path
    measure = importlib.import_module("benchmarks._measure")
    values = [float(number) for number in range(1, 1001)]
    assert measure.percentile(values, 0.999) == 999.0
    assert measure.percentile([7.0], 0.999) == 7.0
    order = measure.schedule(["a", "b", "c"], 4)
    assert order == [*"abc", *"bca", *"cab", *"abc"]


def test_a_target_knows_whether_it_is_met(command: Any) -> None:  # for the path
    targets = importlib.import_module("benchmarks._targets")
    assert targets.Target("x", ">=", 0.9, "").met(0.9)
    assert not targets.Target("x", "<=", 1.2, "").met(1.3)
    assert targets.Target("x", "==", [], "").met([])
    text = targets.table({"checkout_ratio": 0.5, "peak_over": 0})
    lines = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert "MISSED" in lines["checkout_ratio"]
    assert " met " in lines["peak_over"]
    assert "not run" in lines["move_ratio"]
