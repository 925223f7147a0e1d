"""Namespaces, which the free edition of Vault does not have: it does not look at the header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import Secret
from ephemeral_creds.testing import vault_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import DatabaseEngine


@pytest.mark.parametrize("namespace", ["team", "team/sub/", "root", "/", ""])
def test_the_header_changes_nothing(
    any_engine: DatabaseEngine, unique: Callable[[str], str], namespace: str
) -> None:
    admin, vault = any_engine.admin, any_engine.vault
    if vault.version.startswith("OpenBao"):
        pytest.skip("OpenBao has namespaces")
    path = any_engine.create_role(role := unique("space"))
    machine = admin.create_approle(unique("machine"), [any_engine.policy(role)])
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
    assert any_engine.leases(role) == leases
    assert ask("PUT", "sys/leases/revoke", {"lease_id": leases[0], "sync": True}) == 204
    assert any_engine.leases(role) == []
