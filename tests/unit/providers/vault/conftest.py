from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stub_vault import SECRET_ID, StubVault

from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, proxy or netrc of the developer's own."""
    for name in ("VAULT_TOKEN", "BAO_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.fixture
def stub() -> Iterator[StubVault]:
    with StubVault() as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def config(stub: StubVault) -> VaultConfig:
    # Generous where no test waits for it, so that a slow machine makes no difference.
    return VaultConfig(stub.address, connect_timeout=5, read_timeout=5, revoke_timeout=5)


@pytest.fixture
def provider(config: VaultConfig, clock: FakeClock) -> Iterator[VaultDynamicProvider]:
    auth = AppRoleAuth("role-id", SECRET_ID)
    made = VaultDynamicProvider("app", auth=auth, config=config, clock=clock)
    yield made
    made.close()
