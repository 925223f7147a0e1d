"""The verdict, and the shape of the JSON object."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_report import REPORT
from ephemeral_creds.cli._report import quantile, rotations_due, verdict
from ephemeral_creds.cli._view import conclusion

GOOD = replace(REPORT, source="api")


@pytest.mark.parametrize(
    ("seconds", "due"), [(60, 5), (30, 2), (15, 1), (11.9, 0), (120, 10), (59.9, 4)]
)
def test_rotations_due(seconds: float, due: int) -> None:
    assert rotations_due(seconds) == due


def test_kept() -> None:
    assert verdict(GOOD) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"failed": 1}, "1 of 1000 queries failed"),
        ({"rotations": 4}, "4 rotations, 5 were due"),
        ({"peak_connections": 13}, "13 connections at once, 12 are allowed"),
        ({"roles_left": 2}, "2 roles were left"),
        ({"revocations": 5}, "5 of 6 leases were revoked"),
        ({"queries": 0}, "no query"),
        ({"trouble": ("PostgreSQL could not be watched",)}, "PostgreSQL could not be watched"),
    ],
)
def test_each_promise_by_itself(change: dict[str, Any], problem: str) -> None:
    found = verdict(replace(GOOD, **change))
    assert len(found) == 1
    assert problem in found[0]


def test_the_leases_of_a_sidecar_are_its_own_business() -> None:
    assert verdict(replace(GOOD, source="file", revocations=5)) == []


def test_problems_add_up() -> None:
    assert len(verdict(replace(GOOD, failed=3, roles_left=1))) == 2


def test_json_has_the_promised_names() -> None:
    text = GOOD.as_json()
    assert "\n" not in text
    found = json.loads(text)
    promised = {
        "queries", "failed", "rotations", "renewals", "mints", "revocations", "peak_connections",
        "max_connections", "roles_left", "p50_ms", "p999_ms", "vault", "source", "seconds",
    }  # fmt: skip
    assert promised <= set(found)
    assert found["vault"] == "OpenBao 2.7.2"
    assert found["ok"] is True
    assert found["problems"] == []


def test_json_of_a_bad_run() -> None:
    found = json.loads(replace(GOOD, failed=1, failures={"OperationalError: gone": 1}).as_json())
    assert found["ok"] is False
    assert found["failures"] == {"OperationalError: gone": 1}


def test_an_interrupted_run_is_not_ok() -> None:
    report = replace(GOOD, interrupted="SIGINT")
    assert json.loads(report.as_json())["ok"] is False
    assert "Stopped by SIGINT" in conclusion(report)[-1]


def test_a_short_run_does_not_claim_a_rotation() -> None:
    short = replace(GOOD, seconds=5.0, rotations=0, mints=1, revocations=1)
    assert conclusion(short)[-1].startswith("Kept: no query failed. It was too short")
    assert conclusion(GOOD)[-1].startswith("Kept: the user name changed")


def test_leftovers_are_reported_after_a_signal_too() -> None:
    report = replace(GOOD, interrupted="SIGINT", trouble=("sys/mounts/x is left",))
    assert conclusion(report) == ["Stopped by SIGINT.", "sys/mounts/x is left"]


def test_the_end_says_what_failed() -> None:
    report = replace(GOOD, failed=2, failures={"OperationalError: gone": 2})
    assert conclusion(report) == [
        "  2 × OperationalError: gone",
        "NOT KEPT: 2 of 1000 queries failed",
    ]


def test_the_report_says_why_a_lease_was_not_revoked() -> None:
    report = replace(GOOD, revocations=5, unrevoked=("RevocationFailed generation=6",))
    why, problem = conclusion(report)
    assert why == "  RevocationFailed generation=6"
    assert problem.startswith("NOT KEPT: 5 of 6 leases were revoked")
    assert json.loads(report.as_json())["unrevoked"] == ["RevocationFailed generation=6"]


def test_the_table_does_without_latencies() -> None:
    rows = dict(replace(GOOD, p50_ms=None, p999_ms=None).rows())
    assert rows["latency"] == "median unknown, 99.9 % within unknown"


def test_nothing_has_no_quantiles() -> None:
    assert quantile([], 0.5) is None


def test_quantiles_of_a_thousand() -> None:
    durations = [number / 1000 for number in range(1, 1001)]
    assert [quantile(durations, fraction) for fraction in (0.5, 0.999, 1.0)] == [0.5, 0.999, 1.0]


def test_one_slow_in_a_thousand_is_not_in_the_999th() -> None:
    durations = [*[0.001] * 999, 2.0]
    assert quantile(durations, 0.999) == 0.001
    assert quantile(durations, 1.0) == 2.0


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_at_least_the_fraction_does_not_exceed_its_quantile(
    durations: list[float], fraction: float
) -> None:
    durations.sort()
    found = quantile(durations, fraction)
    assert found in durations
    assert sum(one <= found for one in durations) >= math.floor(len(durations) * fraction)
