"""Sealed, and silent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from contract_shapes import eventually, refusal

from ephemeral_creds.testing import DatabaseEngine, vault_request

if TYPE_CHECKING:
    from collections.abc import Callable

    Unique = Callable[[str], str]


def test_sealed_and_unsealed(engine: DatabaseEngine, unique: Unique) -> None:
    vault, ask = engine.vault, engine.admin.request
    engine.create_role(role := unique("seal"))
    lease_id = engine.read(role).body["lease_id"]
    body = {"lease_id": lease_id}
    vault.seal()
    try:
        sealed = (503, ["Vault is sealed"])
        assert refusal(engine.read(role)) == sealed
        assert refusal(ask("PUT", "sys/leases/renew", body)) == sealed
        assert refusal(ask("PUT", "sys/leases/revoke", body)) == sealed
        assert refusal(ask("GET", "auth/token/lookup-self")) == sealed
        assert refusal(ask("POST", "auth/approle/login", {})) == sealed
        health = ask("GET", "sys/health")
        assert (health.status, health.body["sealed"]) == (503, True)
        assert ask("GET", "sys/seal-status").body["sealed"] is True
    finally:
        vault.unseal()
    health = ask("GET", "sys/health")
    assert (health.status, health.body["sealed"]) == (200, False)
    assert ask("PUT", "sys/leases/renew", body).status == 200
    assert engine.leases(role) == [lease_id]


@pytest.mark.slow
def test_a_sealed_vault_ends_nothing(engine: DatabaseEngine, unique: Unique) -> None:
    engine.create_role(role := unique("sealend"), default_ttl=3, max_ttl=3)
    name = engine.read(role).data["username"]
    issued = time.monotonic()
    engine.vault.seal()
    try:
        time.sleep(max(issued + 3.5 - time.monotonic(), 0.0))
        assert name in engine.postgres.roles()
    finally:
        engine.vault.unseal()
    assert eventually(lambda: name not in engine.postgres.roles())


def test_paused_and_resumed(engine: DatabaseEngine) -> None:
    vault = engine.vault
    vault.pause()
    try:
        with pytest.raises(TimeoutError):
            vault_request(vault.address, "GET", "sys/health", timeout=0.2)
    finally:
        vault.resume()
    assert vault_request(vault.address, "GET", "sys/health").status == 200
