"""Namespaces: OpenBao has them, and the free edition of Vault does not look at the header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_shapes import refusal

from differences import needs
from ephemeral_creds import Secret
from ephemeral_creds.testing import vault_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine, VaultResponse


@needs("namespaces", there=False)
@pytest.mark.parametrize("namespace", ["team", "team/sub/", "root", "/", ""])
def test_the_header_changes_nothing(
    engine: DatabaseEngine, unique: Callable[[str], str], namespace: str
) -> None:
    admin, vault = engine.admin, engine.vault
    path = engine.create_role(role := unique("space"))
    machine = admin.create_approle(unique("machine"), [engine.policy(role)])
    body = {"role_id": machine.role_id, "secret_id": machine.secret_id.reveal()}
    login = vault_request(
        vault.address, "POST", "auth/approle/login", body, namespace=namespace
    ).body["auth"]
    token = Secret(login["client_token"])

    def ask(method: str, at: str, sent: dict[str, object] | None = None) -> int:
        answer = vault_request(vault.address, method, at, sent, token=token, namespace=namespace)
        if answer.body.get("lease_id"):
            leases.append(answer.body["lease_id"])
        return answer.status

    leases: list[str] = []
    assert ask("GET", "sys/health") == 200
    assert ask("GET", "auth/token/lookup-self") == 200
    assert ask("GET", path) == 200
    # The lease is the same one without the header, and may be ended with it.
    assert engine.leases(role) == leases
    assert ask("PUT", "sys/leases/revoke", {"lease_id": leases[0], "sync": True}) == 204
    assert engine.leases(role) == []


@needs("namespaces")
def test_a_namespace_has_mounts_of_its_own(
    engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    team, mount = unique("team"), unique("theirs")
    engine.admin.call("POST", f"sys/namespaces/{team}", {})
    engine.admin.call("POST", f"{team}/sys/mounts/{mount}", {"type": "database"})

    def ask(namespace: str) -> VaultResponse:
        address, token = engine.vault.address, engine.vault.root_token
        return vault_request(address, "GET", "sys/mounts", token=token, namespace=namespace)

    for name, there in ((team, True), (f"{team}/", True), ("", False)):
        assert (f"{mount}/" in ask(name).data) is there
    assert refusal(ask("nowhere")) == (404, ["namespace not found"])


@needs("namespaces")
@pytest.mark.parametrize("namespace", ["root", "/"])
def test_health_belongs_to_no_namespace(engine: DatabaseEngine, namespace: str) -> None:
    address, token = engine.vault.address, engine.vault.root_token
    health = vault_request(address, "GET", "sys/health", namespace=namespace)
    assert refusal(health) == (400, ["operation unavailable in namespaces"])
    path = "auth/token/lookup-self"
    assert vault_request(address, "GET", path, token=token, namespace=namespace).status == 200
