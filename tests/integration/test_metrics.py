"""Metrics and health of pools that rotate on a real PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from minting import PATIENCE
from twins import EAGER, wait_until

from ephemeral_creds import CredentialKeeper
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
