"""Metrics of pools and keepers for prometheus_client.

`PrometheusMetrics` is read at each scrape. In prometheus_client's multiprocess mode, which merges
plain metric objects only, `PrometheusEventMetrics` has what events tell. Both have the same names,
and the labels ``keeper`` and ``pool``: never a user name, of which there is a new one
with each rotation.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, Literal

from ephemeral_creds import events
from ephemeral_creds.contrib._figures import (
    KEEPER,
    OPERATIONS,
    OUTCOMES,
    POOL,
    REASONS,
    SECONDS,
    Figure,
)
from ephemeral_creds.contrib._missing import missing
from ephemeral_creds.contrib._observed import Observed
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.pool.base import LeasedPool

try:
    from prometheus_client import Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ModuleNotFoundError as error:
    raise missing(error, "prometheus") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry, Metric

    from ephemeral_creds.events import Event
    from ephemeral_creds.keeper.consumer import Keeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper

__all__ = ["PrometheusEventMetrics", "PrometheusMetrics"]


class PrometheusMetrics:
    """A collector for a registry of prometheus_client, and an observer of requests to providers.

    Each scrape reads the pools' and keepers' own counters: between scrapes it costs nothing, a
    checkout nothing at all. All series of a pool or keeper begin when it is added, with zero; an
    instant that is not known is not a number. Only the requests to the provider are counted by
    events: pass it as an observer for these, then they begin with a keeper's first request.

    ::

        metrics = PrometheusMetrics()
        REGISTRY.register(metrics)
        pool = RotatingConnectionPool(provider, conninfo, observers=[metrics, log_event])
        metrics.add(pool)

    Pools and keepers are held weakly.

    Args:
        now: returns Unix time, in seconds.

    Raises:
        ConfigurationError: prometheus_client is in its multiprocess mode: it does not read
            collectors there. Use `PrometheusEventMetrics`.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        if {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"} & os.environ.keys():
            raise ConfigurationError(
                "PrometheusMetrics is a custom collector, which prometheus_client does not read in "
                "its multiprocess mode (PROMETHEUS_MULTIPROC_DIR is set): use "
                "PrometheusEventMetrics instead"
            )
        self._now = now
        self._observed = Observed()
        self._requests = _Requests(None)

    def add(self, source: LeasedPool | Keeper | AsyncCredentialKeeper) -> None:
        """Add a pool with its keeper, or a keeper. Does nothing if it was added before.

        Raises:
            ConfigurationError: another open one has the same name: their series would be the same.
        """
        self._observed.add(source)

    def __call__(self, event: Event, /) -> None:
        """Count a request to a provider; other events are counted by the keeper itself."""
        if isinstance(event, events.ProviderRequest):
            self._requests.note(event)

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without their samples, for the registry."""
        for keeper in KEEPER:
            yield _family(keeper, ("keeper",))
        for pool in POOL:
            yield _family(pool, ("keeper", "pool"))
        yield from self._requests.describe()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        keepers = self._observed.read_keepers(self._now())
        for figure in KEEPER:
            family = _family(figure, ("keeper",))
            for name, keeper in keepers.items():
                _fill(family, figure, (name,), keeper)
            yield family
        pools = self._observed.read_pools()
        for of_pool in POOL:
            family = _family(of_pool, ("keeper", "pool"))
            for names, pool in pools.items():
                _fill(family, of_pool, names, pool)
            yield family
        yield from self._requests.collect()


class PrometheusEventMetrics:
    """Plain metric objects of prometheus_client, kept up to date by an observer.

    For its multiprocess mode, in which each worker of a prefork server has a pool and a keeper of
    its own. Counters are the sum over the workers, gauges those of the live worker that is worst
    off. Facts that no event reports are missing: whether a keeper or pool is ready, connections,
    and requests for them.

    ::

        metrics = PrometheusEventMetrics()
        pool = RotatingConnectionPool(provider, conninfo, observers=[metrics, log_event])
        metrics.add(pool)

    Give the keepers names (``CredentialKeeper(name=)``): equal ones in all workers.

    Args:
        registry: where the metrics are registered. Not needed in multiprocess mode, in which
            files are read.
        now: returns Unix time, in seconds.

    Raises:
        ValueError: `registry` has metrics of these names.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._requests = _Requests(registry)
        all_figures: tuple[Figure[Any], ...] = (*KEEPER, *POOL)
        figures = {figure.name: figure for figure in all_figures}

        def counter(name: str, *labels: str) -> Counter:
            figure = figures[name]
            return Counter(_name(figure), figure.text, ("keeper", *labels), registry=registry)

        def gauge(name: str, mode: Literal["livemin", "livemax"]) -> Gauge:
            figure = figures[name]
            labels = ("keeper",)
            return Gauge(
                _name(figure), figure.text, labels, registry=registry, multiprocess_mode=mode
            )

        self._generation = gauge("keeper.generation", "livemin")
        self._lease_end = gauge("lease.end_timestamp", "livemin")
        self._lease_duration = gauge("lease.duration", "livemin")
        self._unusable = gauge("source.unusable", "livemax")
        self._overdue = counter("pool.overdue_connections", "pool")
        self._refused = counter("logins.refused", "reason")
        self._counters: dict[type[Event], Counter] = {
            events.CredentialsIssued: counter("grants"),
            events.FetchFailed: counter("fetch_failures"),
            events.LeaseRenewed: counter("lease.renewals"),
            events.RenewalFailed: counter("lease.renewal_failures"),
            events.LeaseRevoked: counter("lease.revocations"),
            events.RevocationFailed: counter("lease.revocation_failures"),
        }
        self._rotations = counter("rotations")
        self._known: set[str] = set()
        # Of credentials that are not in use yet: instant of the report and duration, by keeper and
        # generation.
        self._issued: dict[tuple[str, int], tuple[float, float]] = {}
        self._current: dict[str, int] = {}

    def add(self, source: LeasedPool | Keeper | AsyncCredentialKeeper) -> None:
        """Have the series of a pool and its keeper, or of a keeper, begin with zero."""
        if isinstance(source, LeasedPool):
            self._overdue.labels(source.keeper.name, source.name)
            self._begin(source.keeper.name)
        else:
            self._begin(source.status().name)

    def _begin(self, keeper: str) -> None:
        if keeper in self._known:
            return
        for counter in (*self._counters.values(), self._rotations):
            counter.labels(keeper)
        for reason in REASONS:
            self._refused.labels(keeper, reason)
        self._unusable.labels(keeper)
        self._known.add(keeper)

    def __call__(self, event: Event, /) -> None:
        """Count `event`."""
        keeper = event.keeper
        self._begin(keeper)
        if (counter := self._counters.get(type(event))) is not None:
            counter.labels(keeper).inc()
        match event:
            case events.ProviderRequest():
                self._requests.note(event)
            case events.CredentialsIssued(generation=generation, duration=duration):
                self._issued[keeper, generation] = self._now(), duration
            case events.CredentialsPublished(generation=generation, previous=previous):
                if previous is not None:
                    self._rotations.labels(keeper).inc()
                self._current[keeper] = generation
                self._generation.labels(keeper).set(generation)
                self._show_lease(keeper, *self._issued.get((keeper, generation), (0.0, math.inf)))
                older = [key for key in list(self._issued) if key[0] == keeper]
                for key in older:
                    if key[1] <= generation:
                        self._issued.pop(key, None)
            case events.LeaseRenewed(generation=generation, duration=duration):
                if generation == self._current.get(keeper):
                    self._show_lease(keeper, self._now(), duration)
                else:
                    self._issued[keeper, generation] = self._now(), duration
            case events.LoginRejected(reason=reason):
                self._refused.labels(keeper, reason).inc()
            case events.SourceUnusable():
                self._unusable.labels(keeper).set(1)
            case events.SourceRecovered():
                self._unusable.labels(keeper).set(0)
            case events.BorrowedAtDeadline(pool=pool, connections=connections):
                self._overdue.labels(keeper, pool).inc(connections)
            case _:
                pass

    def _show_lease(self, keeper: str, at: float, duration: float) -> None:
        # Of values that are not numbers there is no least one.
        if duration < math.inf:
            self._lease_end.labels(keeper).set(at + duration)
            self._lease_duration.labels(keeper).set(duration)


class _Requests:
    """The requests of providers: how long they take, and how they end."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._seconds = Histogram(
            "ephemeral_creds_provider_request_duration_seconds",
            "How long requests to the provider's server take.",
            ("keeper", "operation"),
            buckets=SECONDS,
            registry=registry,
        )
        self._outcomes = Counter(
            "ephemeral_creds_provider_requests",
            "Requests to the provider's server, by how they ended.",
            ("keeper", "operation", "outcome"),
            registry=registry,
        )
        self._known: set[str] = set()

    def note(self, request: events.ProviderRequest) -> None:
        keeper = request.keeper
        if keeper not in self._known:
            self._known.add(keeper)
            for operation in OPERATIONS:
                self._seconds.labels(keeper, operation)
                for outcome in OUTCOMES:
                    self._outcomes.labels(keeper, operation, outcome)
        self._seconds.labels(keeper, request.operation).observe(request.duration)
        self._outcomes.labels(keeper, request.operation, request.outcome).inc()

    def describe(self) -> Iterator[Metric]:
        yield from self._seconds.describe()
        yield from self._outcomes.describe()

    def collect(self) -> Iterator[Metric]:
        yield from self._seconds.collect()
        yield from self._outcomes.collect()


def _name(figure: Figure[Any]) -> str:
    """Return a figure's name in Prometheus, without ``_total``, which prometheus_client adds."""
    name = f"ephemeral_creds_{figure.name.replace('.', '_')}"
    return f"{name}_seconds" if figure.unit == "s" else name


def _family(
    figure: Figure[Any], labels: tuple[str, ...]
) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    own = (figure.label,) if figure.label else ()
    return kind(_name(figure), figure.text, labels=(*labels, *own))


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily,
    figure: Figure[Any],
    labels: tuple[str, ...],
    source: object,
) -> None:
    for label, value in figure.read(source).items():
        own = (label,) if figure.label else ()
        family.add_metric((*labels, *own), math.nan if value is None else float(value))
