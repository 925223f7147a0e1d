"""Rules, queries and metrics, as Prometheus' own promtool judges them: for `nox -s promtool`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from ephemeral_creds import CredentialKeeper, FixedProvider, RotatingConnectionPool, events
from ephemeral_creds.contrib.prometheus import PrometheusMetrics

PROGRAM = os.environ.get("EPHEMERAL_CREDS_PROMTOOL", "promtool")
FOLDER = Path(__file__).parents[1]


def promtool(*arguments: str | Path, given: str | None = None) -> str:
    ran = subprocess.run(
        [PROGRAM, *arguments], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", FOLDER / "tests" / "alerts_test.yml")


def test_a_wrong_threshold_is_noticed(tmp_path: Path) -> None:
    rules = (FOLDER / "alerts.yml").read_text().replace("< 0.25 *", "< 0.5 *")
    (tmp_path / "alerts.yml").write_text(rules)
    (tmp_path / "tests").mkdir()
    tests = tmp_path / "tests" / "alerts_test.yml"
    tests.write_text((FOLDER / "tests" / "alerts_test.yml").read_text())
    with pytest.raises(AssertionError, match="EphemeralCredsLeaseNotRenewed"):
        promtool("test", "rules", tests)


def test_rules_are_valid() -> None:
    promtool("check", "rules", FOLDER / "alerts.yml")


def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    queries = [
        target["expr"].replace("$__rate_interval", "5m").replace("$keeper", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", path)


def test_metrics_follow_the_conventions() -> None:
    metrics, registry = PrometheusMetrics(), CollectorRegistry()
    registry.register(metrics)
    keeper = CredentialKeeper(FixedProvider("app", "not-used"), name="orders", observers=[metrics])
    pool = RotatingConnectionPool(keeper, "host=/nowhere", open=False, name="main")
    metrics.add(pool)
    sent = {"operation": "mint", "outcome": "done", "address": "http://v", "duration": 0.1}
    metrics(events.ProviderRequest(keeper="orders", **sent))  # type: ignore[arg-type]
    promtool("check", "metrics", given=generate_latest(registry).decode())
