"""What a check makes of answers that a test's Vault does not give."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from stub_vault import SECRET_ID, Reply, StubVault

from ephemeral_creds.check.findings import Findings
from ephemeral_creds.check.vault import check_vault
from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider

HEALTH = (
    "GET /v1/sys/health?activecode=200&standbycode=200&drsecondarycode=200"
    "&performancestandbycode=200&sealedcode=200&uninitcode=200"
)


@pytest.fixture
def found(stub: StubVault, config: VaultConfig) -> Callable[..., dict[str, tuple[str, str]]]:
    """Return level and text of each step with a Vault whose health is as given."""

    def found(health: object = None, **changed: object) -> dict[str, tuple[str, str]]:
        good = {"initialized": True, "sealed": False, "standby": False, "version": "1.21.1"}
        good |= {"enterprise": False, "server_time_utc": int(time.time())}
        body = good | health if isinstance(health, dict) else health or good
        stub.script(HEALTH, Reply(body=body))
        provider = VaultDynamicProvider(
            "app",
            auth=AppRoleAuth("role-id", SECRET_ID),
            config=replace(config, **changed),  # type: ignore[arg-type]
        )
        findings = Findings("x")
        check_vault(provider, findings)
        provider.close()
        return {f.step: (f.level, f.text) for f in findings.found}

    return found


Found = Callable[..., dict[str, tuple[str, str]]]


def test_a_vault_that_was_never_set_up(found: Found, stub: StubVault) -> None:
    said = found({"initialized": False})
    assert said["seal"] == ("fail", f"{stub.address} has never been initialised")


def test_a_standby_is_fine(found: Found, stub: StubVault) -> None:
    text = f"{stub.address}: unsealed, a standby that forwards requests"
    assert found({"standby": True})["seal"] == ("ok", text)


@pytest.mark.parametrize(
    ("ahead", "level", "text"),
    [
        (0, "ok", "the same as this machine's"),
        (30, "ok", "30 s ahead of this machine's"),
        (-3600, "warn", "3600 s behind this machine's"),
    ],
)
def test_clocks_are_compared(
    found: Found, monkeypatch: pytest.MonkeyPatch, ahead: int, level: str, text: str
) -> None:
    monkeypatch.setattr("ephemeral_creds.check.vault.unix_time", lambda: 1_800_000_000.5)
    said = found({"server_time_utc": 1_800_000_000 + ahead})["clock"]
    assert said[0] == level
    assert said[1].endswith(f" is {text}")


def test_a_namespace_that_the_server_ignores(found: Found) -> None:
    assert found(namespace="team")["namespace"][0] == "warn"
    assert "namespace" not in found({"enterprise": True}, namespace="team")
    assert "namespace" not in found(namespace="root")


def test_something_that_is_not_vault(found: Found) -> None:
    said = found({"hello": 1, "sealed": "no"})
    assert list(said) == ["address"]
    assert "no 'sealed' in the reply" in said["address"][1]


def test_capabilities_that_cannot_be_asked_for_stop_nothing(found: Found) -> None:
    # The stub has no such path, and answers 204.
    assert found()["policy"][0] == "warn"
    assert found()["role"][0] == "warn"
