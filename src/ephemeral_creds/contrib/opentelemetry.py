"""Metrics and spans of pools and keepers for OpenTelemetry.

Pools have the metrics ``db.client.connection.*`` of the semantic conventions
(https://opentelemetry.io/docs/specs/semconv/database/database-metrics/), as far as psycopg_pool
counts them; keepers have ours. A user name is in none of them, nor in a span: there is a new one
with each rotation.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ephemeral_creds import events
from ephemeral_creds.contrib._figures import KEEPER, POOL, SECONDS, Figure
from ephemeral_creds.contrib._missing import missing
from ephemeral_creds.contrib._observed import Observed
from ephemeral_creds.contrib._timed import AsyncTimedCheckouts, Checkouts, TimedCheckouts
from ephemeral_creds.pool.base import LeasedPool

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Observation, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, get_tracer
except ModuleNotFoundError as error:
    raise missing(error, "opentelemetry") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider

    from ephemeral_creds.contrib._figures import PoolFigures
    from ephemeral_creds.events import Event
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper

__all__ = ["AsyncTimedCheckouts", "Telemetry", "TimedCheckouts"]

_NAME = "ephemeral_creds"
_POOL_NAME = "db.client.connection.pool.name"

# These have a name in the semantic conventions.
_CONVENTIONAL = {
    *("pool.connections", "pool.min_connections", "pool.max_connections"),
    *("pool.waiting_requests", "pool.request_failures"),
}

# The role of a login may be the user that logs in.
_SHOWS_ROLE = ("mint", "read", "renew", "revoke")


class Telemetry:
    """Metrics of pools and keepers, and an observer that makes a span of each provider request.

    Each collection reads the pools' and keepers' own counters: between collections it costs
    nothing, a checkout nothing at all. Pass it as an observer, too: requests to the provider are
    counted, timed and traced by events.

    ::

        telemetry = Telemetry()
        pool = RotatingConnectionPool(provider, conninfo, observers=[telemetry, log_event])
        telemetry.add(pool)

    Connects are timed, too. How long callers wait for a connection and use it is known only of a
    pool with the mixin `TimedCheckouts` or `AsyncTimedCheckouts`.

    Pools and keepers are held weakly. One instance is enough for a process: a second one reports
    to the same instruments.

    Args:
        meter_provider: where the metrics go; by default the global one.
        tracer_provider: where the spans go; by default the global one.
        now: returns Unix time, in seconds.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._observed = Observed()
        self._meter = meter = get_meter(_NAME, meter_provider=meter_provider)
        self._tracer = get_tracer(_NAME, tracer_provider=tracer_provider)
        self._durations = meter.create_histogram(
            f"{_NAME}.provider.request.duration",
            unit="s",
            description="How long requests to the provider's server take.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._requests = meter.create_counter(
            f"{_NAME}.provider.requests",
            unit="{request}",
            description="Requests to the provider's server, by how they ended.",
        )
        self._times = {
            name: meter.create_histogram(
                f"db.client.connection.{name}",
                unit="s",
                description=text,
                explicit_bucket_boundaries_advisory=SECONDS,
            )
            for name, text in _TIMES.items()
        }
        for figure in KEEPER:
            self._observe(figure, self._of_keepers(figure))
        for of_pool in POOL:
            if of_pool.name not in _CONVENTIONAL:
                self._observe(of_pool, self._of_pools(of_pool))
        self._observe_conventional()

    def add(self, source: LeasedPool | Keeper | AsyncCredentialKeeper) -> None:
        """Add a pool with its keeper, or a keeper. Does nothing if it was added before.

        Raises:
            ConfigurationError: another open one has the same name: their metrics would be the same.
        """
        known = self._observed.add(source)
        if isinstance(source, LeasedPool) and not known:
            times = _Times(self._times, {_POOL_NAME: source.name, "keeper": source.keeper.name})
            source.on_connect(times.connected)
            if isinstance(source, Checkouts):
                source.report_times(times)

    def __call__(self, event: Event, /) -> None:
        """Count, time and trace a request to a provider; keepers count everything else."""
        if isinstance(event, events.ProviderRequest):
            self._note(event)

    def _note(self, request: events.ProviderRequest) -> None:
        labels = {"keeper": request.keeper, "operation": request.operation}
        outcome = {**labels, "outcome": request.outcome}
        self._durations.record(request.duration, outcome)
        self._requests.add(1, outcome)
        ended = self._now()
        attributes: dict[str, str | int] = {
            f"{_NAME}.{name}": value
            for name, value in (
                *outcome.items(),
                ("address", request.address),
                ("mount", request.mount),
                ("role", request.role if request.operation in _SHOWS_ROLE else ""),
            )
            if value
        }
        if request.status is not None:
            attributes["http.response.status_code"] = request.status
        span = self._tracer.start_span(
            " ".join(filter(None, (request.operation, request.mount))),
            context=Context(),  # a keeper's work belongs to no request of the application's
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=_nanoseconds(ended - request.duration),
        )
        if request.outcome != "done":
            span.set_status(Status(StatusCode.ERROR, request.error))
        span.end(_nanoseconds(ended))

    def _observe(
        self, figure: Figure[Any], callback: Callable[[CallbackOptions], Iterator[Observation]]
    ) -> None:
        create = (
            self._meter.create_observable_counter
            if figure.kind == "counter"
            else self._meter.create_observable_gauge
        )
        create(f"{_NAME}.{figure.name}", [callback], figure.unit, figure.text)

    def _of_keepers(
        self, figure: Figure[Any]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            for name, keeper in self._observed.read_keepers(self._now()).items():
                yield from _observations(figure, keeper, {"keeper": name})

        return callback

    def _of_pools(self, figure: Figure[Any]) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            for (keeper, name), pool in self._observed.read_pools().items():
                yield from _observations(figure, pool, {"keeper": keeper, "pool": name})

        return callback

    def _observe_conventional(self) -> None:
        meter = self._meter

        def reading(
            read: Callable[[PoolFigures], float],
        ) -> list[Callable[[CallbackOptions], Iterator[Observation]]]:
            def callback(_: CallbackOptions) -> Iterator[Observation]:
                for (keeper, name), pool in self._observed.read_pools().items():
                    yield Observation(read(pool), {_POOL_NAME: name, "keeper": keeper})

            return [callback]

        def states(_: CallbackOptions) -> Iterator[Observation]:
            for (keeper, name), pool in self._observed.read_pools().items():
                for state, value in pool.states.items():
                    labels = {"db.client.connection.state": state, _POOL_NAME: name}
                    yield Observation(value, {**labels, "keeper": keeper})

        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [states],
            "{connection}",
            "The number of connections that are currently in state described by the state "
            "attribute.",
        )
        for name, text, unit, read in _SIZES:
            meter.create_observable_up_down_counter(name, reading(read), unit, text)
        meter.create_observable_counter(
            "db.client.connection.timeouts",
            reading(lambda pool: pool.stats.get("requests_errors", 0)),
            "{timeout}",
            "The number of connection timeouts that have occurred trying to obtain a connection "
            "from the pool.",
        )


class _Times:
    """The histograms of one pool."""

    def __init__(self, histograms: Mapping[str, Histogram], labels: dict[str, str]) -> None:
        self._histograms = histograms
        self._labels = labels

    def connected(self, seconds: float) -> None:
        self._histograms["create_time"].record(seconds, self._labels)

    def waited(self, seconds: float) -> None:
        self._histograms["wait_time"].record(seconds, self._labels)

    def used(self, seconds: float) -> None:
        self._histograms["use_time"].record(seconds, self._labels)


_TIMES = {
    "create_time": "The time it took to create a new connection.",
    "wait_time": "The time it took to obtain an open connection from the pool.",
    "use_time": "The time between borrowing a connection and returning it to the pool.",
}

_SIZES: tuple[tuple[str, str, str, Callable[[PoolFigures], float]], ...] = (
    (
        "db.client.connection.idle.max",
        "The maximum number of idle open connections allowed.",
        "{connection}",
        # psycopg_pool closes idle ones after `max_idle` seconds, and until then as many as there
        # are may be idle.
        lambda pool: pool.status.max_size,
    ),
    (
        "db.client.connection.idle.min",
        "The minimum number of idle open connections allowed.",
        "{connection}",
        lambda pool: pool.status.min_size,
    ),
    (
        "db.client.connection.max",
        "The maximum number of open connections allowed.",
        "{connection}",
        lambda pool: pool.status.max_size,
    ),
    (
        "db.client.connection.pending_requests",
        "The number of current pending requests for an open connection.",
        "{request}",
        lambda pool: pool.status.waiting,
    ),
)


def _observations(
    figure: Figure[Any], source: object, labels: Mapping[str, str]
) -> Iterator[Observation]:
    for label, value in figure.read(source).items():
        if value is not None:
            own = {figure.label: label} if figure.label else {}
            yield Observation(value, {**labels, **own})


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
