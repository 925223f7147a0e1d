"""Key-value secrets as a server may answer them, and how often it is asked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from stub_vault import PASSWORD, Reply, StubVault

from ephemeral_creds import (
    AppRoleAuth,
    MalformedResponse,
    ProviderUnavailable,
    RefreshPolicy,
    VaultConfig,
    VaultKVProvider,
)
from ephemeral_creds.lifecycle.actions import Fetch
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.signals import Granted, Start, Tick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import FakeClock

SECRET = "GET /v1/secret/data/app/db"


@pytest.fixture
def kv(config: VaultConfig, clock: FakeClock) -> Iterator[VaultKVProvider]:
    provider = VaultKVProvider("app/db", auth=AppRoleAuth("role"), config=config, clock=clock)
    with contextlib.closing(provider):
        yield provider


def secret(version: int, created: str, **fields: object) -> Reply:
    known: dict[str, object] = {"username": f"app-{version}", "password": PASSWORD}
    metadata = {"version": version, "created_time": f"2026-01-01T{created}.123456789Z"}
    return Reply(body={"data": {"data": known | fields, "metadata": metadata}})


def test_an_older_version_is_a_node_that_lags(stub: StubVault, kv: VaultKVProvider) -> None:
    stub.script(SECRET, secret(2, "00:00:02"), secret(1, "00:00:01"), secret(2, "00:00:02"))
    assert kv.fetch().credentials.username == "app-2"
    with pytest.raises(ProviderUnavailable, match="version 1 was answered after version 2"):
        kv.fetch()
    assert kv.fetch().credentials.username == "app-2"


def test_a_secret_that_is_written_anew_starts_from_1(stub: StubVault, kv: VaultKVProvider) -> None:
    stub.script(SECRET, secret(7, "00:00:02"), secret(1, "00:00:03"))
    kv.fetch()
    assert kv.fetch().credentials.username == "app-1"


@pytest.mark.parametrize("data", [{}, {"data": {"username": "app", "password": PASSWORD}}])
def test_a_reply_without_versions_is_malformed(
    stub: StubVault, kv: VaultKVProvider, data: dict[str, object]
) -> None:
    stub.script(SECRET, Reply(body={"data": data}))
    with pytest.raises(MalformedResponse, match="no 'metadata'"):
        kv.fetch()


def test_it_is_asked_twelve_times_an_hour(
    stub: StubVault, kv: VaultKVProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 0.0  # it never expires, so that nothing is asked because of it
    stub.script(SECRET, *(secret(1, "00:00:00") for _ in range(20)))
    machine, begun = Lifecycle(RefreshPolicy(), mints=False), clock.now()
    actions = machine.handle(Start(), clock.now())
    while clock.now() <= begun + 3600:
        answers = [
            machine.handle(Granted(kv.fetch()), clock.now()) for a in actions if a == Fetch()
        ]
        assert len(answers) == 1
        clock.advance(machine.deadline - clock.now())
        actions = machine.handle(Tick(), clock.now())
    assert [request.what for request in stub.requests[2:]] == [SECRET] * 12
