"""How many requests a Vault gets for a rotation and for a renewal."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks._contenders import UNLIMITED
from benchmarks._measure import Figure
from ephemeral_creds import (
    CredentialKeeper,
    RotatingConnectionPool,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.testing import DatabaseEngine, VaultServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks._measure import Effort
    from ephemeral_creds.testing import PostgresServer

__all__ = ["measure"]

_PATIENCE = 60.0


def measure(server: PostgresServer, effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    # A proxy of the environment must not get what is meant for this machine.
    os.environ["no_proxy"] = "127.0.0.1"
    with VaultServer() as vault:
        engine = DatabaseEngine(vault, server)
        rotations = _count(engine, effort.vault_rotations, "rotations", default_ttl="1h")
        renewals = _count(engine, effort.vault_rotations, "renewals", default_ttl="2s")
    return {
        "vault_requests_per_rotation": Figure(rotations["each"]),
        "vault_requests_per_renewal": Figure(renewals["each"]),
    }, {"rotations": rotations, "renewals": renewals}


def _count(engine: DatabaseEngine, wanted: int, what: str, default_ttl: str) -> dict[str, Any]:
    vault, name = engine.vault, f"bench-{what}"
    engine.create_role(name, default_ttl=default_ttl, max_ttl="24h")
    provider = VaultDynamicProvider(
        name, auth=TokenAuth(vault.root_token), config=VaultConfig(vault.address)
    )
    keeper = CredentialKeeper(provider, refresh=UNLIMITED, observers=())
    with keeper, RotatingConnectionPool(keeper, engine.postgres.conninfo(), min_size=4) as pool:
        pool.wait()
        requests, counted = len(vault.requests), getattr(keeper.status(), what)
        if what == "rotations":
            for _ in range(wanted):
                _rotate(keeper)
        _wait(lambda: getattr(keeper.status(), what) - counted >= wanted)
        seen = vault.requests[requests:]
        counted = getattr(keeper.status(), what) - counted
    # Without the parts of a path that are different each time.
    kinds = Counter(f"{r.method} {'/'.join(r.path.split('/')[:5])}" for r in seen)
    return {"count": counted, "each": len(seen) / counted, "requests": dict(kinds)}


def _rotate(keeper: CredentialKeeper) -> None:
    """Rotate, and wait until the old lease has been revoked."""
    revoked = keeper.status().revocations
    keeper.refresh()
    _wait(lambda: keeper.status().revocations > revoked)


def _wait(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it has not happened in {_PATIENCE:g} s")
        time.sleep(0.005)
