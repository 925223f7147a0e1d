"""The contract of providers, held by each of ours at a real source."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    AppRoleAuth,
    CredentialProvider,
    FileProvider,
    FixedProvider,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
    VaultKVProvider,
    VaultStaticProvider,
)
from ephemeral_creds.testing import DatabaseEngine, ProviderContract, VaultAdmin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import VaultServer

    Unique = Callable[[str], str]

_numbers = itertools.count(1)
# Nothing listens there, so that it is known at once.
_NOWHERE = VaultConfig("http://127.0.0.1:1", read_timeout=5)


class OfVault(ProviderContract):
    """What is the same for each of Vault's: how to reach it, and a login that may nothing."""

    @pytest.fixture
    def known_secrets(self, vault: VaultServer) -> Sequence[str]:
        return [vault.root_token.reveal()]

    @pytest.fixture
    def settings(self, vault: VaultServer) -> dict[str, object]:
        auth = TokenAuth(vault.root_token)
        return {"auth": auth, "config": VaultConfig(vault.address, read_timeout=20)}

    @pytest.fixture
    def powerless(
        self, vault: VaultServer, settings: dict[str, object], unique: Unique
    ) -> dict[str, object]:
        how = VaultAdmin(vault).create_approle(unique("contract"), ["default"])
        return settings | {"auth": AppRoleAuth(how.role_id, how.secret_id)}


class TestVaultDynamic(OfVault):
    @pytest.fixture
    def provider(self, settings: dict[str, object], role: str) -> CredentialProvider:
        return VaultDynamicProvider(role, **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def exists(self, engine: DatabaseEngine) -> Callable[[str], bool]:
        def exists(username: str) -> bool:
            with engine.postgres.admin() as conn:
                found = conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [username])
                return found.fetchone() is not None

        return exists

    @pytest.fixture
    def unavailable(self, settings: dict[str, object]) -> CredentialProvider:
        return VaultDynamicProvider("app", **(settings | {"config": _NOWHERE}))  # type: ignore[arg-type]

    @pytest.fixture
    def misconfigured(self, settings: dict[str, object]) -> CredentialProvider:
        return VaultDynamicProvider("nothing", **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def denied(self, powerless: dict[str, object], role: str) -> CredentialProvider:
        return VaultDynamicProvider(role, **powerless)  # type: ignore[arg-type]


class TestVaultStatic(OfVault):
    @pytest.fixture
    def name(self, engine: DatabaseEngine, unique: Unique) -> str:
        with engine.postgres.admin() as conn:
            conn.execute(f'CREATE ROLE "{(user := unique("contract_static"))}" LOGIN'.encode())
        engine.create_static_role(name := unique("static"), user)
        return name

    @pytest.fixture
    def provider(self, settings: dict[str, object], name: str) -> CredentialProvider:
        return VaultStaticProvider(name, **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def change(self, engine: DatabaseEngine, name: str) -> Callable[[], object]:
        return lambda: engine.rotate_static_role(name)

    @pytest.fixture
    def misconfigured(self, settings: dict[str, object]) -> CredentialProvider:
        return VaultStaticProvider("nothing", **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def denied(self, powerless: dict[str, object], name: str) -> CredentialProvider:
        return VaultStaticProvider(name, **powerless)  # type: ignore[arg-type]


class TestVaultKV(OfVault):
    @pytest.fixture
    def path(self, unique: Unique) -> str:
        return f"contract/{unique('db')}"

    @pytest.fixture
    def change(self, vault: VaultServer, path: str) -> Callable[[], object]:
        def write() -> None:
            fields = {"username": "app", "password": f"contract-password-{next(_numbers)}"}
            VaultAdmin(vault).call("POST", f"secret/data/{path}", {"data": fields})

        return write

    @pytest.fixture
    def provider(
        self, settings: dict[str, object], path: str, change: Callable[[], object]
    ) -> CredentialProvider:
        change()
        return VaultKVProvider(path, **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def unavailable(self, settings: dict[str, object]) -> CredentialProvider:
        return VaultKVProvider("app", **(settings | {"config": _NOWHERE}))  # type: ignore[arg-type]

    @pytest.fixture
    def misconfigured(self, settings: dict[str, object]) -> CredentialProvider:
        return VaultKVProvider("nothing", **settings)  # type: ignore[arg-type]

    @pytest.fixture
    def denied(self, powerless: dict[str, object], path: str) -> CredentialProvider:
        return VaultKVProvider(path, **powerless)  # type: ignore[arg-type]


class TestFile(ProviderContract):
    @pytest.fixture
    def path(self, tmp_path: Path, canary: Canary) -> Path:
        canary.allow_secret_file(tmp_path)
        return tmp_path / "db-creds.json"

    @pytest.fixture
    def change(self, path: Path) -> Callable[[], object]:
        def write() -> None:
            number = next(_numbers)
            fields = {"username": f"app{number}", "password": f"contract-password-{number}"}
            path.with_suffix(".new").write_text(json.dumps(fields))
            path.with_suffix(".new").rename(path)

        return write

    @pytest.fixture
    def provider(self, path: Path, change: Callable[[], object]) -> CredentialProvider:
        change()
        return FileProvider(path, poll_interval=0.05, notify=False)

    @pytest.fixture
    def unavailable(self, tmp_path: Path) -> CredentialProvider:
        return FileProvider(tmp_path / "not-yet")

    @pytest.fixture
    def misconfigured(self, tmp_path: Path) -> CredentialProvider:
        (tmp_path / "a-device").symlink_to("/dev/zero")
        return FileProvider(tmp_path / "a-device")


class TestFixed(ProviderContract):
    @pytest.fixture
    def provider(self) -> CredentialProvider:
        return FixedProvider("app", "-".join(["contract", "fixed", "password"]))
