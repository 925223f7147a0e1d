"""Metrics and health of pools that rotate on a real PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from minting import PATIENCE
from twins import EAGER, wait_until

from ephemeral_creds import AsyncRotatingConnectionPool, CredentialKeeper, RotatingConnectionPool
from ephemeral_creds.events import LoginRejected

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds import Observer


def test_prometheus_sees_a_rotation(setup: Setup) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    from ephemeral_creds.contrib.prometheus import PrometheusMetrics

    metrics, registry = PrometheusMetrics(), CollectorRegistry()
    registry.register(metrics)
    observers: list[Observer] = [metrics, setup.events]
    keeper = CredentialKeeper(setup.provider, name="orders", refresh=EAGER, observers=observers)
    pool = setup.make(keeper, name="main", min_size=2, max_size=2)
    setup.stack.callback(keeper.close)
    keeper.start()

    def value(name: str, **labels: str) -> float:
        labels["keeper"] = "orders"
        found = registry.get_sample_value(f"ephemeral_creds_{name}", labels)
        assert found is not None, name
        return found

    metrics.add(getattr(pool, "raw", pool))
    assert value("pool_ready", pool="main") == 0
    pool.open(wait=True, timeout=PATIENCE)
    assert value("pool_ready", pool="main") == value("keeper_ready") == 1
    with pool.connection() as connection:
        connection.execute("SELECT 1")
        setup.rotate(2)
        wait_until(lambda: value("pool_stale_connections", pool="main") == 1)
        assert value("keeper_retired_generations") == 1
    wait_until(lambda: value("lease_revocations_total") == 1)
    assert value("keeper_generation") == value("pool_generation", pool="main") == 2
    assert value("grants_total") == 2
    assert value("rotations_total") == 1
    assert value("pool_requests_total", pool="main") == 1
    assert value("pool_connections", pool="main", state="idle") == 2
    assert value("pool_connects_total", pool="main") >= 4
    setup.provider.login = "NOLOGIN"
    setup.provider.change()
    setup.events.wait_for(LoginRejected)
    wait_until(lambda: value("logins_refused_total", reason="credentials") >= 1)
    assert value("logins_refused_total", reason="server") == 0
    assert setup.prefix not in generate_latest(registry).decode()


@pytest.mark.parametrize("timed", [False, True])
def test_opentelemetry_times_what_pools_do(setup: Setup, timed: bool) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from ephemeral_creds.contrib.opentelemetry import (
        AsyncTimedCheckouts,
        Telemetry,
        TimedCheckouts,
    )

    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    setup.stack.callback(meters.shutdown)
    telemetry = Telemetry(meter_provider=meters)

    def count(name: str) -> int:
        data = reader.get_metrics_data()
        assert data is not None
        found = [
            point.count
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"db.client.connection.{name}"
            for point in cast("Any", metric.data.data_points)
        ]
        return sum(found)

    kinds: dict[str, tuple[type[Any], ...]] = {
        "sync": (TimedCheckouts, RotatingConnectionPool),
        "async": (AsyncTimedCheckouts, AsyncRotatingConnectionPool),
    }
    bases = kinds[setup.twin.name][0 if timed else 1 :]
    pool = setup.make(kind=type("Pool", bases, {}), min_size=2, max_size=2)
    raw = getattr(pool, "raw", pool)
    telemetry.add(raw)
    telemetry.add(raw)
    pool.open(wait=True, timeout=PATIENCE)
    for _ in range(3):
        with pool.connection() as connection:
            connection.execute("SELECT 1")
    setup.rotate(2)
    wait_until(lambda: setup.provider.roles() == [setup.role(2)])
    assert count("create_time") >= 4
    assert count("wait_time") == count("use_time") == (3 if timed else 0)
    with pool.connection():
        assert count("use_time") == (3 if timed else 0)
    assert count("use_time") == (4 if timed else 0)
    if timed:
        assert cast("Any", raw)._borrowed_at == {}
