"""A Vault that others run: what is refused there, and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import ConfigurationError, Secret
from ephemeral_creds.cli._external import ExternalVault
from ephemeral_creds.testing import Fault, VaultAdmin, VaultCallFailed

if TYPE_CHECKING:
    from ephemeral_creds.testing import VaultServer

NAME = "ours"
EVERYTHING = {
    "sys/mounts/*": ["create", "update", "delete"],
    "sys/auth": ["read"],
    "sys/auth/*": ["create", "update", "delete", "sudo"],
    "sys/policies/acl/*": ["create", "update", "delete"],
}


@pytest.fixture
def operator(own_vault: VaultServer) -> VaultAdmin:
    return VaultAdmin(own_vault)


def connect(
    own_vault: VaultServer, monkeypatch: pytest.MonkeyPatch, token: Secret
) -> ExternalVault:
    monkeypatch.setenv("VAULT_ADDR", own_vault.address)
    monkeypatch.setenv("VAULT_TOKEN", token.reveal())
    return ExternalVault()


def token_for(operator: VaultAdmin, rules: dict[str, list[str]]) -> Secret:
    return operator.create_token([operator.write_policy("theirs", rules)])


def make_everything(admin: ExternalVault) -> None:
    admin.call("POST", f"sys/mounts/{NAME}", {"type": "database"})
    admin.enable_auth("approle", NAME)
    admin.write_policy(NAME, {"secret/x": ["read"]})


def state(operator: VaultAdmin) -> list[bool]:
    return [
        f"{NAME}/" in operator.call("GET", "sys/mounts").data,
        f"{NAME}/" in operator.call("GET", "sys/auth").data,
        NAME in operator.call("GET", "sys/policies/acl?list=true").data["keys"],
    ]


def deleted(own_vault: VaultServer) -> list[str]:
    return [record.path for record in own_vault.requests if record.method == "DELETE"]


def test_all_that_was_made_is_removed_once(
    own_vault: VaultServer, operator: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = connect(own_vault, monkeypatch, token_for(operator, EVERYTHING))
    make_everything(admin)
    assert state(operator) == [True, True, True]
    assert admin.remove_all() == []
    assert state(operator) == [False, False, False]
    assert admin.remove_all() == []
    assert len(deleted(own_vault)) == 3


def test_a_refused_removal_does_not_prevent_the_others(
    own_vault: VaultServer, operator: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = EVERYTHING | {"sys/mounts/*": ["create", "update"]}
    admin = connect(own_vault, monkeypatch, token_for(operator, rules))
    make_everything(admin)
    (line,) = admin.remove_all()
    assert line.startswith(f"sys/mounts/{NAME} is left in the Vault at {own_vault.address}: 403")
    assert state(operator) == [True, False, False]


def test_all_failures_are_listed(
    own_vault: VaultServer, operator: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = connect(own_vault, monkeypatch, token_for(operator, EVERYTHING))
    make_everything(admin)
    own_vault.stop()
    lines = admin.remove_all()
    assert [line.split()[0] for line in lines] == [
        f"sys/mounts/{NAME}",
        f"sys/auth/{NAME}",
        f"sys/policies/acl/{NAME}",
    ]
    assert all("does not answer" in line for line in lines)


@pytest.mark.parametrize("known", [True, False], ids=["default-only", "unknown"])
def test_a_token_that_may_not_make_anything_leaves_nothing_to_remove(
    own_vault: VaultServer, operator: VaultAdmin, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    token = operator.create_token() if known else Secret("hvs.never-given-out")
    admin = connect(own_vault, monkeypatch, token)
    with pytest.raises(ConfigurationError) as refused:
        make_everything(admin)
    said = str(refused.value)
    assert f"POST sys/mounts/{NAME}: 403" in said
    assert "a token that may mount a secrets engine" in said
    assert admin.remove_all() == []
    assert deleted(own_vault) == []


def test_an_object_whose_creation_is_in_doubt_is_removed(
    own_vault: VaultServer, operator: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = connect(own_vault, monkeypatch, token_for(operator, EVERYTHING))
    own_vault.faults.add("POST", "sys/mounts/*", Fault.error(502))
    with pytest.raises(VaultCallFailed, match="502"):
        make_everything(admin)
    assert admin.remove_all() == []
    assert deleted(own_vault) == [f"sys/mounts/{NAME}"]
