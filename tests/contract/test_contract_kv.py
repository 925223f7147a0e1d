"""Key-value secrets: what the engine answers, in both of its versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_shapes import DENIED, envelope, eventually, refusal, shape

from differences import needs
from ephemeral_creds.testing import VaultAdmin, vault_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import VaultServer

    Unique = Callable[[str], str]

SECRET = {"username": "app", "password": "contract-kv-password"}
METADATA = {
    "created_time": "str",
    "custom_metadata": None,
    "deletion_time": "str",
    "destroyed": "bool",
    "version": "int",
}


@pytest.fixture
def admin(vault: VaultServer) -> VaultAdmin:
    return VaultAdmin(vault)


@pytest.fixture
def path(admin: VaultAdmin, unique: Unique) -> str:
    path = unique("contract-kv")
    admin.call("POST", f"secret/data/{path}", {"data": SECRET})
    return path


def test_a_version(admin: VaultAdmin, path: str) -> None:
    answer = admin.request("GET", f"secret/data/{path}")
    fields = {"username": "str", "password": "str"}
    assert answer.status == 200
    assert shape(answer.body) == envelope({"data": fields, "metadata": METADATA})
    assert answer.data["metadata"]["version"] == 1
    admin.call("POST", f"secret/metadata/{path}", {"custom_metadata": {"ttl": "60s"}})
    assert admin.request("GET", f"secret/data/{path}").data["metadata"]["custom_metadata"] == {
        "ttl": "60s"
    }


def test_deleted_and_destroyed_versions_are_a_404_that_says_so(
    admin: VaultAdmin, path: str
) -> None:
    admin.call("DELETE", f"secret/data/{path}")
    answer = admin.request("GET", f"secret/data/{path}")
    assert answer.status == 404
    assert shape(answer.body) == envelope({"data": None, "metadata": METADATA})
    assert answer.data["metadata"]["deletion_time"]
    assert answer.data["metadata"]["destroyed"] is False
    admin.call("POST", f"secret/destroy/{path}", {"versions": [1]})
    assert admin.request("GET", f"secret/data/{path}?version=1").data["metadata"]["destroyed"]


def test_an_absent_secret_is_a_404_without_a_reason(admin: VaultAdmin, path: str) -> None:
    assert refusal(admin.request("GET", f"secret/data/{path}?version=2")) == (404, [])
    assert refusal(admin.request("GET", f"secret/data/{path}-other")) == (404, [])


def test_an_engine_without_versions(admin: VaultAdmin, unique: Unique) -> None:
    mount = unique("kv")
    admin.call("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    admin.call("POST", f"{mount}/app", SECRET | {"ttl": "60s"})
    answer = admin.request("GET", f"{mount}/app")
    assert answer.status == 200
    assert shape(answer.body) == envelope({"username": "str", "password": "str", "ttl": "str"})
    # At the path of the other version there is nothing, and a reply that does not say so.
    assert refusal(admin.request("GET", f"{mount}/data/app")) == (404, [])


def test_the_version_of_an_engine_is_known_to_who_has_a_right_below_it(
    admin: VaultAdmin, unique: Unique
) -> None:
    policy = admin.write_policy(unique("policy"), {"secret/data/contract": ["read"]})
    token = admin.create_token(policies=[policy])
    mount = admin.request("GET", "sys/internal/ui/mounts/secret", token=token)
    assert mount.status == 200
    assert mount.data["type"] == "kv"
    assert mount.data["options"] == {"version": "2"}
    other = admin.request("GET", "sys/internal/ui/mounts/nowhere", token=token)
    assert other.status == 403
    assert refusal(admin.request("GET", "secret/data/other", token=token)) == (403, [DENIED])


@needs("namespaces")
def test_a_namespace_has_secrets_of_its_own(admin: VaultAdmin, unique: Unique) -> None:
    team, vault = unique("team"), admin.vault
    admin.call("POST", f"sys/namespaces/{team}", {})
    mount = {"type": "kv", "options": {"version": "2"}}
    admin.call("POST", f"{team}/sys/mounts/secret", mount)
    # For a moment it answers 400: "Upgrading from non-versioned to versioned data".
    path, secret = f"{team}/secret/data/app", {"data": SECRET}
    assert eventually(lambda: admin.request("POST", path, secret).status == 200)
    for namespace, status in ((team, 200), ("", 404)):
        answer = vault_request(
            vault.address, "GET", "secret/data/app", token=vault.root_token, namespace=namespace
        )
        assert answer.status == status
