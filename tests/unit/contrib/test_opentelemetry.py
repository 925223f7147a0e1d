"""Metrics and spans for OpenTelemetry: the semantic conventions, ours, and requests."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import CredentialKeeper, RefreshPolicy, RotatingConnectionPool, events
from ephemeral_creds.testing import FakeClock, ScriptedProvider

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode

from ephemeral_creds.contrib.opentelemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_800_000_000.0
PATIENCE = 20.0


class World:
    """Telemetry that stays in memory, and keepers on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.provider = ScriptedProvider(self.clock)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.telemetry = Telemetry(
            meter_provider=self.meters, tracer_provider=self.tracers, now=lambda: NOW
        )
        self.keepers: list[CredentialKeeper] = []

    def keeper(self, name: str = "orders") -> CredentialKeeper:
        keeper = CredentialKeeper(
            self.provider,
            clock=self.clock,
            name=name,
            refresh=RefreshPolicy(jitter=0.0),
            observers=[self.telemetry],
        )
        self.keepers.append(keeper)
        return keeper

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[tuple[Any, ...], Any]:
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric is not None else []
        return {tuple(point.attributes.values()): point for point in points}

    def close(self) -> None:
        for keeper in self.keepers:
            keeper.close(PATIENCE)
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def pool_of(keeper: Any, **options: Any) -> RotatingConnectionPool[Any]:
    return RotatingConnectionPool(keeper, "host=/nowhere", open=False, name="main", **options)


CONVENTIONAL = {
    db_metrics.DB_CLIENT_CONNECTION_COUNT: db_metrics.create_db_client_connection_count,
    db_metrics.DB_CLIENT_CONNECTION_IDLE_MAX: db_metrics.create_db_client_connection_idle_max,
    db_metrics.DB_CLIENT_CONNECTION_IDLE_MIN: db_metrics.create_db_client_connection_idle_min,
    db_metrics.DB_CLIENT_CONNECTION_MAX: db_metrics.create_db_client_connection_max,
    db_metrics.DB_CLIENT_CONNECTION_PENDING_REQUESTS: (
        db_metrics.create_db_client_connection_pending_requests
    ),
    db_metrics.DB_CLIENT_CONNECTION_TIMEOUTS: db_metrics.create_db_client_connection_timeouts,
}


class Described:
    """A meter that notes the unit that the conventions give an instrument."""

    unit = ""

    def _note(self, *, unit: str, **_: str) -> None:
        self.unit = unit

    create_up_down_counter = create_counter = _note


def test_pools_have_the_conventional_metrics(world: World) -> None:
    pool = pool_of(world.keeper(), min_size=2, max_size=7)
    world.telemetry.add(pool)
    metrics = world.metrics()
    for name, create in CONVENTIONAL.items():
        said: Any = Described()
        create(said)
        assert metrics[name].unit == said.unit
        for point in metrics[name].data.data_points:
            assert point.attributes[db_attributes.DB_CLIENT_CONNECTION_POOL_NAME] == "main"
        assert metrics[name].data.is_monotonic == (name == "db.client.connection.timeouts")
    states = {
        point.attributes[db_attributes.DB_CLIENT_CONNECTION_STATE]: point.value
        for point in metrics["db.client.connection.count"].data.data_points
    }
    assert states == {"idle": 0, "used": 0}
    (largest,) = metrics["db.client.connection.max"].data.data_points
    assert largest.value == 7
    (smallest,) = metrics["db.client.connection.idle.min"].data.data_points
    assert smallest.value == 2


def test_nothing_has_two_names(world: World) -> None:
    pool = pool_of(world.keeper())
    world.telemetry.add(pool)
    names = set(world.metrics())
    assert "ephemeral_creds.pool.stale_connections" in names
    assert not names & {"ephemeral_creds.pool.connections", "ephemeral_creds.pool.max_connections"}


def test_keepers_have_ours(world: World) -> None:
    keeper = world.keeper()
    world.telemetry.add(keeper)
    assert world.points("ephemeral_creds.lease.end_timestamp") == {}
    assert world.points("ephemeral_creds.rotations")["orders",].value == 0
    keeper.start()
    grant = keeper.wait(PATIENCE)
    world.clock.suspend(100.0)
    assert world.points("ephemeral_creds.lease.end_timestamp")["orders",].value == NOW + 3500
    assert world.points("ephemeral_creds.grants")["orders",].value == 1
    assert world.points("ephemeral_creds.logins.refused")["orders", "pg_hba"].value == 0
    assert world.metrics()["ephemeral_creds.lease.renewals"].data.is_monotonic
    assert grant.credentials.username not in str(world.metrics())


def test_pools_are_held_weakly(world: World) -> None:
    pool = pool_of(world.keeper())
    world.telemetry.add(pool)
    assert world.points("db.client.connection.max")
    del pool
    gc.collect()
    assert world.points("db.client.connection.max") == {}


def request(**fields: Any) -> events.ProviderRequest:
    kept: dict[str, Any] = {
        "keeper": "orders", "operation": "mint", "outcome": "done", "address": "http://v",
        "mount": "database", "role": "my-app-role", "accessor": "accessor-of-a-token",
        "lease": "database/creds/my-app-role/h4Tz1q…", "status": 200, "duration": 0.25,
    }  # fmt: skip
    return events.ProviderRequest(**kept | fields)


def test_a_request_is_timed_and_counted(world: World) -> None:
    world.telemetry(request())
    world.telemetry(request(duration=0.5))
    world.telemetry(request(outcome="unknown", status=None, error="TimeoutError"))
    point = world.points("ephemeral_creds.provider.request.duration")["orders", "mint", "done"]
    assert (point.count, point.sum, point.explicit_bounds[0]) == (2, 0.75, 0.01)
    requests = world.points("ephemeral_creds.provider.requests")
    assert requests["orders", "mint", "done"].value == 2
    assert requests["orders", "mint", "unknown"].value == 1


def test_a_request_has_a_span_of_its_duration(world: World) -> None:
    with world.tracers.get_tracer("the application's").start_as_current_span("request"):
        world.telemetry(request())
    span, _ = world.spans.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("mint database", SpanKind.CLIENT, None)
    assert span.end_time == int(NOW * 1e9)
    assert span.start_time is not None
    assert span.end_time - span.start_time == pytest.approx(0.25e9, abs=1000)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "ephemeral_creds.keeper": "orders",
        "ephemeral_creds.operation": "mint",
        "ephemeral_creds.outcome": "done",
        "ephemeral_creds.address": "http://v",
        "ephemeral_creds.mount": "database",
        "ephemeral_creds.role": "my-app-role",
        "http.response.status_code": 200,
    }


def test_a_failed_request_has_a_span_with_its_error(world: World) -> None:
    world.telemetry(request(outcome="refused", status=403, error="AccessDenied: 403 by policy"))
    (span,) = world.spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "AccessDenied: 403 by policy"


def test_a_user_that_logs_in_is_not_shown(world: World) -> None:
    world.telemetry(request(operation="login", mount="userpass", role="jane.doe"))
    (span,) = world.spans.get_finished_spans()
    assert "jane.doe" not in str(dict(span.attributes or {}))
    assert "jane.doe" not in str(world.metrics())


def test_other_events_have_no_span(world: World) -> None:
    world.telemetry(events.LeaseRevoked(keeper="orders", generation=1))
    assert world.spans.get_finished_spans() == ()
