"""What a scrape of metrics costs. A checkout has no code for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Figure
from benchmarks._world import Login, fixed_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure"]

SIZE = 20
TURNS, SCRAPES = 40, 5


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    del effort  # it takes a second
    # Here, so that the other sections run without it.
    from prometheus_client import CollectorRegistry, generate_latest

    from ephemeral_creds.contrib.prometheus import PrometheusMetrics

    metrics, registry = PrometheusMetrics(), CollectorRegistry()
    registry.register(metrics)
    with fixed_pool(Login.of(server), SIZE) as pool:
        metrics.add(pool)
        seconds = min(_turn(lambda: generate_latest(registry)) for _ in range(TURNS))
        size = len(generate_latest(registry))
    return {"scrape_cpu_percent": Figure(100 * seconds)}, {
        "milliseconds": round(1000 * seconds, 3),
        "bytes": size,
    }


def _turn(scrape: Callable[[], object]) -> float:
    """Return the processor time of a scrape, in seconds."""
    began = time.process_time()
    for _ in range(SCRAPES):
        scrape()
    return (time.process_time() - began) / SCRAPES
