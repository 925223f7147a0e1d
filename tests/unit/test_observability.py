"""The alert rules and the dashboard name metrics that exist, and each rule has its tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
pytest.importorskip("prometheus_client")

from ephemeral_creds.contrib.prometheus import PrometheusMetrics  # noqa: E402

FOLDER = Path(__file__).parents[2] / "examples" / "observability"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0][
    "rules"
]
TESTS = yaml.safe_load((FOLDER / "tests" / "alerts_test.yml").read_text())["tests"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
QUERIES = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]


def exported() -> set[str]:
    names = set()
    for family in PrometheusMetrics().describe():
        match family.type:
            case "counter":
                names.add(f"{family.name}_total")
            case "histogram":
                names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            case _:
                names.add(family.name)
    return names


EXPRESSIONS = [rule["expr"] for rule in RULES] + QUERIES


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_exported_metrics_only(expression: str) -> None:
    named = set(re.findall(r"ephemeral_creds_\w+", expression))
    assert named
    assert named <= exported()
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_tested_both_ways(rule: dict[str, Any]) -> None:
    expected = [
        bool(case.get("exp_alerts"))
        for test in TESTS
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    assert any(expected)
    # Either at another time, or by another series of the same test.
    (test,) = [t for t in TESTS if t["alert_rule_test"][0]["alertname"] == rule["alert"]]
    assert not all(expected) or len(test["input_series"]) > len(expected)


def test_no_alert_has_a_user_name() -> None:
    assert not [rule for rule in RULES if "user" in rule["expr"]]


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
