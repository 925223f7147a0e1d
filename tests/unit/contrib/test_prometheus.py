"""Metrics for prometheus_client: names, labels, zeros, and what events tell."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import (
    AsyncCredentialKeeper,
    ConfigurationError,
    CredentialKeeper,
    RefreshPolicy,
    RotatingConnectionPool,
    events,
)
from ephemeral_creds.contrib import _figures
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.testing import FakeClock, ScriptedProvider

prometheus_client = pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from ephemeral_creds.contrib.prometheus import (  # noqa: E402
    PrometheusEventMetrics,
    PrometheusMetrics,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds import Event

NOW = 1_800_000_000.0
PATIENCE = 20.0


class World:
    """Keepers of one provider, on a clock that stands still, and a registry."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.provider = ScriptedProvider(self.clock)
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(now=lambda: NOW)
        self.registry.register(self.metrics)
        self.keepers: list[CredentialKeeper] = []

    def keeper(self, name: str = "orders", **options: Any) -> CredentialKeeper:
        options.setdefault("refresh", RefreshPolicy(jitter=0.0))
        options.setdefault("observers", [self.metrics])
        keeper = CredentialKeeper(self.provider, clock=self.clock, name=name, **options)
        self.keepers.append(keeper)
        return keeper

    def value(self, name: str, **labels: str) -> float | None:
        labels.setdefault("keeper", "orders")
        return self.registry.get_sample_value(f"ephemeral_creds_{name}", labels)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for keeper in world.keepers:
        keeper.close(PATIENCE)


def pool_of(keeper: Any, name: str = "main", **options: Any) -> RotatingConnectionPool[Any]:
    return RotatingConnectionPool(keeper, "host=/nowhere", open=False, name=name, **options)


def request(operation: str = "mint", **fields: Any) -> events.ProviderRequest:
    fields = {"keeper": "orders", "outcome": "done", "address": "http://v"} | fields
    return events.ProviderRequest(operation=operation, **fields)


def test_the_reasons_are_those_of_refused_logins() -> None:
    answered = [each.value for each in LoginFailure if each is not LoginFailure.UNREACHABLE]
    assert list(_figures.REASONS) == answered


def test_all_series_begin_with_zero(world: World) -> None:
    pool = pool_of(world.keeper(), min_size=2, max_size=7)
    world.metrics.add(pool)
    families = list(world.registry.collect())
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(samples) == len(_figures.KEEPER) + len(_figures.REASONS) - 1 + (
        len(_figures.POOL) + 1
    )
    unknown = {name: value for (name, *_), value in samples.items() if math.isnan(value)}
    assert set(unknown) == {
        "ephemeral_creds_lease_end_timestamp_seconds",
        "ephemeral_creds_lease_duration_seconds",
        "ephemeral_creds_credentials_expected_end_timestamp_seconds",
    }
    sizes = {"min": 2.0, "max": 7.0}
    for size, value in sizes.items():
        assert world.value(f"pool_{size}_connections", pool="main") == value
    others = [
        value
        for (name, *_), value in samples.items()
        if name not in unknown and not name.endswith(("_min_connections", "_max_connections"))
    ]
    assert set(others) == {0.0}
    for reason in _figures.REASONS:
        assert world.value("logins_refused_total", reason=reason) == 0
    for state in ("idle", "used"):
        assert world.value("pool_connections", pool="main", state=state) == 0


def test_names_follow_the_conventions(world: World) -> None:
    for family in world.metrics.describe():
        assert family.name.startswith("ephemeral_creds_")
        assert family.documentation.endswith((".", "end."))
        assert not family.name.endswith("_total")
    keeper = world.keeper()
    world.metrics.add(pool_of(keeper))
    world.metrics(request())
    text = generate_latest(world.registry).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            is_count = sample.name.endswith("_total")
            assert (family.type == "counter") == is_count or sample.name.endswith("_created")
            assert set(sample.labels) <= {
                *("keeper", "pool", "reason", "state", "operation", "outcome", "le"),
            }


def test_a_lease_is_shown_by_its_end(world: World) -> None:
    keeper = world.keeper()
    world.metrics.add(keeper)
    keeper.start()
    keeper.wait(PATIENCE)
    world.clock.suspend(100.0)
    assert world.value("lease_end_timestamp_seconds") == NOW + 3500
    assert world.value("lease_duration_seconds") == 3600
    assert world.value("keeper_generation") == 1
    assert world.value("keeper_ready") == 1
    assert world.value("grants_total") == world.value("fetches_total") == 1


def test_no_user_name_is_shown(world: World) -> None:
    keeper = world.keeper()
    world.metrics.add(keeper)
    keeper.start()
    grant = keeper.wait(PATIENCE)
    assert grant.credentials.username not in generate_latest(world.registry).decode()


def test_a_keeper_of_two_pools_is_read_once(world: World) -> None:
    keeper = world.keeper()
    pools = [pool_of(keeper, "one"), pool_of(keeper, "two")]
    for pool in pools * 2:
        world.metrics.add(pool)
        world.metrics.add(keeper)
    lines = generate_latest(world.registry).decode().splitlines()
    assert lines.count('ephemeral_creds_grants_total{keeper="orders"} 0.0') == 1
    assert len(lines) == len(set(lines))
    assert world.value("pool_ready", pool="one") == world.value("pool_ready", pool="two") == 0


def test_pools_are_held_weakly(world: World) -> None:
    pool = pool_of(world.provider, observers=[world.metrics])
    name, gone = pool.keeper.name, weakref.ref(pool)
    world.metrics.add(pool)
    assert world.value("pool_ready", pool="main", keeper=name) == 0
    del pool
    gc.collect()
    assert gone() is None
    assert world.value("pool_ready", pool="main", keeper=name) is None
    assert world.value("grants_total", keeper=name) is None


def test_the_keeper_for_asyncio_is_taken(world: World) -> None:
    keeper = AsyncCredentialKeeper(world.provider, name="async")
    world.metrics.add(keeper)
    assert world.value("grants_total", keeper="async") == 0


def test_equal_names_are_refused(world: World) -> None:
    keeper = world.keeper()
    first, second = pool_of(keeper), pool_of(keeper)
    world.metrics.add(first)
    with pytest.raises(ConfigurationError, match="another pool 'main' of keeper 'orders'"):
        world.metrics.add(second)
    other = world.keeper()
    with pytest.raises(ConfigurationError, match="another keeper 'orders'"):
        world.metrics.add(other)
    keeper.close()
    assert world.value("keeper_ready") is None
    world.metrics.add(other)
    assert world.value("keeper_ready") == 0


def test_something_else_is_refused(world: World) -> None:
    something: Any = 5
    with pytest.raises(ConfigurationError, match="given was 'int'"):
        world.metrics.add(something)


def test_a_request_that_is_taken_back_lowers_no_counter(world: World) -> None:
    pool = pool_of(world.keeper())
    world.metrics.add(pool)
    for counted, shown in ((1000, 1000), (999, 1000), (1001, 1001), (3, 3)):
        pool._stats["requests_num"] = counted
        assert world.value("pool_requests_total", pool="main") == shown


def test_requests_are_counted_by_events(world: World) -> None:
    world.metrics.add(world.keeper())
    requests = {"operation": "mint"}
    assert world.value("provider_request_duration_seconds_count", **requests) is None
    world.metrics(request(duration=0.3))
    world.metrics(request(duration=40.0, outcome="unknown"))
    seconds = "provider_request_duration_seconds"
    assert world.value(f"{seconds}_count", **requests) == 2
    assert world.value(f"{seconds}_sum", **requests) == pytest.approx(40.3)
    assert world.value(f"{seconds}_bucket", le="0.5", **requests) == 1
    assert world.value("provider_requests_total", outcome="done", **requests) == 1
    assert world.value("provider_requests_total", outcome="unknown", **requests) == 1
    assert world.value("provider_requests_total", outcome="refused", operation="renew") == 0


def test_the_registry_refuses_a_second_one(world: World) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        world.registry.register(PrometheusMetrics())


def test_a_collector_is_refused_in_multiprocess_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    with pytest.raises(ConfigurationError, match="PrometheusEventMetrics"):
        PrometheusMetrics()


class TestEvents:
    @pytest.fixture
    def told(self) -> World:
        world = World()
        world.registry = CollectorRegistry()
        self.metrics = PrometheusEventMetrics(world.registry, now=lambda: NOW)
        return world

    def tell(self, *told: Event) -> None:
        for event in told:
            self.metrics(event)

    def test_they_begin_with_zero(self, told: World) -> None:
        keeper = told.keeper()
        pool = pool_of(keeper)
        self.metrics.add(pool)
        for name in ("grants", "fetch_failures", "rotations", "lease_renewals"):
            assert told.value(f"{name}_total") == 0
        assert told.value("logins_refused_total", reason="pg_hba") == 0
        assert told.value("source_unusable") == 0
        assert told.value("pool_overdue_connections_total", pool="main") == 0
        assert told.value("lease_end_timestamp_seconds") is None

    def test_a_lease_ends_when_the_event_says(self, told: World) -> None:
        def issued(generation: int, duration: float) -> Event:
            return events.CredentialsIssued(
                keeper="orders", generation=generation, username="u", duration=duration, reason="r"
            )

        def published(generation: int, previous: int | None) -> Event:
            return events.CredentialsPublished(
                keeper="orders", generation=generation, username="u", previous=previous, proven=True
            )

        def renewed(generation: int, duration: float) -> Event:
            return events.LeaseRenewed(
                keeper="orders", generation=generation, duration=duration, shortened=False
            )

        self.tell(issued(1, 100.0), published(1, None))
        assert told.value("lease_end_timestamp_seconds") == NOW + 100
        self.tell(renewed(1, 50.0))
        assert told.value("lease_duration_seconds") == 50
        self.tell(issued(2, 600.0))
        assert told.value("lease_end_timestamp_seconds") == NOW + 50
        self.tell(renewed(2, 700.0), published(2, 1))
        assert told.value("lease_end_timestamp_seconds") == NOW + 700
        assert told.value("keeper_generation") == 2
        assert told.value("grants_total") == told.value("lease_renewals_total") == 2
        assert told.value("rotations_total") == 1
        self.tell(issued(3, math.inf), published(3, 2))
        assert told.value("lease_end_timestamp_seconds") == NOW + 700
        assert self.metrics._issued == {}

    def test_problems_are_counted(self, told: World) -> None:
        self.tell(
            events.LoginRejected(keeper="orders", generation=1, current=True, reason="server"),
            events.SourceUnusable(keeper="orders", error="e"),
            events.BorrowedAtDeadline(
                keeper="orders", pool="main", generation=1, connections=3, age=1.0
            ),
            request(outcome="failed", duration=1.0),
        )
        assert told.value("logins_refused_total", reason="server") == 1
        assert told.value("source_unusable") == 1
        assert told.value("pool_overdue_connections_total", pool="main") == 3
        assert told.value("provider_requests_total", operation="mint", outcome="failed") == 1
        self.tell(events.SourceRecovered(keeper="orders"))
        assert told.value("source_unusable") == 0

    def test_their_names_are_the_collectors(self, told: World) -> None:
        names = {family.name for family in PrometheusMetrics().describe()}
        assert {family.name for family in told.registry.collect()} < names


WORKERS = """
import os
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from ephemeral_creds import events
from ephemeral_creds.contrib.prometheus import PrometheusEventMetrics

metrics = PrometheusEventMetrics()
theirs = Counter("theirs", "Of the application.")
for duration in (100.0, 200.0):
    if (child := os.fork()) == 0:
        theirs.inc()
        kept = {"keeper": "orders", "generation": 1, "username": "user-1"}
        metrics(events.CredentialsIssued(**kept, duration=duration, reason="start"))
        metrics(events.CredentialsPublished(**kept, previous=None, proven=False))
        metrics(events.LoginRejected(keeper="orders", generation=1, current=True))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_are_added_up_in_multiprocess_mode(tmp_path: Any) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WORKERS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert 'ephemeral_creds_grants_total{keeper="orders"} 2.0' in lines
    refused = 'ephemeral_creds_logins_refused_total{keeper="orders",reason="credentials"} 2.0'
    assert refused in lines
    assert 'ephemeral_creds_lease_duration_seconds{keeper="orders"} 100.0' in lines
    assert 'ephemeral_creds_source_unusable{keeper="orders"} 0.0' in lines
    assert "user-1" not in ran.stdout
