"""Events as counters for a metrics system, and the keeper's status as a health endpoint.

Run it as `api_service.py`.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter

from ephemeral_creds import (
    AppRoleAuth,
    CredentialKeeper,
    Event,
    Problem,
    RotatingConnectionPool,
    VaultDynamicProvider,
    log_event,
)


class EventCounter:
    """An observer: called with each event, from background threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._problems: Counter[str] = Counter()

    def __call__(self, event: Event, /) -> None:
        """Count `event`."""
        name = type(event).__name__
        with self._lock:
            self._counts[name] += 1
            if isinstance(event, Problem):
                self._problems[name] += 1

    def counts(self) -> dict[str, int]:
        """Return how often each kind of event has happened."""
        with self._lock:
            return dict(self._counts)

    def problems(self) -> dict[str, int]:
        """Return the same for those that an operator should look at."""
        with self._lock:
            return dict(self._problems)


def health(keeper: CredentialKeeper, counter: EventCounter) -> dict[str, object]:
    """Return what a health endpoint would answer; there is no secret in it."""
    status = keeper.status()
    return {
        "ready": status.ready,
        "state": status.state,
        "generation": status.generation,
        "expires_in": status.expires_in,
        "last_error": status.last_error,
        "problems": counter.problems(),
    }


def main() -> None:
    """Serve a request, change credentials, and print what was to be seen of it."""
    auth = AppRoleAuth(os.environ["VAULT_ROLE_ID"], os.environ["VAULT_SECRET_ID"])
    provider = VaultDynamicProvider(os.environ["VAULT_ROLE"], auth=auth)
    counter = EventCounter()
    # With observers of your own, include log_event to keep the usual log lines.
    with (
        CredentialKeeper(provider, observers=[counter, log_event]) as keeper,
        RotatingConnectionPool(keeper, os.environ["DB_CONNINFO"], max_size=10) as pool,
    ):
        with pool.connection() as connection:
            connection.execute("SELECT 1")
        keeper.refresh()
        print("health", json.dumps(health(keeper, counter)))
    print("events", json.dumps(counter.counts()))


if __name__ == "__main__":
    main()
