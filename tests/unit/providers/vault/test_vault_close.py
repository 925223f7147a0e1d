"""R14, R19: what closing and forking leave behind."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stub_vault import CREDS, LOGIN, RENEW_TOKEN, REVOKE_TOKEN, TOKEN, Fault, errors

from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError, LeaseLost
from ephemeral_creds.providers.vault import AppRoleAuth, TokenAuth, VaultDynamicProvider

if TYPE_CHECKING:
    from stub_vault import StubVault

    from ephemeral_creds.providers.vault import AuthMethod, VaultConfig
    from ephemeral_creds.testing import FakeClock


def test_r14_close_revokes_our_token_once_and_last(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    provider.revoke(provider.fetch())
    provider.close()
    provider.close()
    assert stub.asked == ["login", "app", "revoke", "revoke-self"]
    with pytest.raises(ConfigurationError, match="the provider is closed"):
        provider.fetch()


def test_r14_close_revokes_superseded_tokens_too(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    provider.fetch()
    clock.advance(2400)
    stub.script(RENEW_TOKEN, errors(400, "lease is not renewable"))
    provider.fetch()
    stub.forget()
    provider.close()
    assert sorted(str(r.token) for r in stub.requests) == [f"{TOKEN[:-1]}1", f"{TOKEN[:-1]}2"]
    assert stub.asked == ["revoke-self", "revoke-self"]


def test_tokens_that_ended_by_themselves_are_not_kept(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    """Without pools nothing says when a grant is free: its lease expires, with its token."""
    stub.script(RENEW_TOKEN, *[errors(400, "lease is not renewable")] * 5)
    for _ in range(5):
        provider.fetch()
        clock.advance(3600)
    provider.fetch()
    assert stub.asked.count("login") == 6
    tokens = provider._own_tokens()
    assert tokens._superseded == []
    stub.forget()
    provider.close()
    assert stub.asked == ["revoke-self"]


def test_close_asks_nothing_for_a_token_that_has_ended(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    provider.fetch()
    clock.advance(3600)
    stub.forget()
    provider.close()
    assert stub.asked == []


def test_close_without_a_fetch_asks_nothing(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    provider.close()
    assert stub.requests == []


def test_close_gives_up_on_a_vault_that_is_away(
    stub: StubVault, provider: VaultDynamicProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.fetch()
    stub.script(REVOKE_TOKEN, Fault("reset"))
    provider.close()
    assert "not revoked" in caplog.text


class Hanging:
    """A fetch in another thread that does not come to its end before `go_on`."""

    def __init__(self, stub: StubVault, provider: VaultDynamicProvider, what: str) -> None:
        self._stub = stub
        self._provider = provider
        self._raised: list[EphemeralCredsError] = []
        self._thread = threading.Thread(target=self._fetch)
        stub.script(what, Fault("late"))
        self._thread.start()
        assert stub.arrived.wait(10)

    def _fetch(self) -> None:
        try:
            self._provider.fetch()
        except EphemeralCredsError as error:
            self._raised.append(error)

    def go_on(self) -> EphemeralCredsError:
        self._stub.released.set()
        self._thread.join(10)
        return self._raised[0]


def impatient(config: VaultConfig, auth: AuthMethod) -> VaultDynamicProvider:
    return VaultDynamicProvider("app", auth=auth, config=replace(config, revoke_timeout=0.05))


def test_r14_close_does_not_wait_for_a_request_that_hangs(
    stub: StubVault, config: VaultConfig, caplog: pytest.LogCaptureFixture
) -> None:
    provider = impatient(config, AppRoleAuth("role-id", "secret-id"))
    hanging = Hanging(stub, provider, CREDS)
    provider.close()
    # The token goes, and with it the lease of whatever the mint still brings.
    assert stub.settled("login", "app", "revoke-self")
    assert "closed while a request hangs" in caplog.text
    assert "is closed" in str(hanging.go_on())


def test_r14_a_login_that_ends_after_close_revokes_its_token(
    stub: StubVault, config: VaultConfig
) -> None:
    provider = impatient(config, AppRoleAuth("role-id", "secret-id"))
    hanging = Hanging(stub, provider, LOGIN)
    provider.close()
    assert stub.asked == ["login"]
    assert "is closed" in str(hanging.go_on())
    assert stub.settled("login", "revoke-self")


def test_r14_a_mint_that_ends_after_close_revokes_its_lease(
    stub: StubVault, config: VaultConfig
) -> None:
    provider = impatient(config, TokenAuth(TOKEN))
    hanging = Hanging(stub, provider, CREDS)
    provider.close()
    assert "is closed" in str(hanging.go_on())
    assert stub.settled("lookup-self", "app", "revoke")  # the token is not ours


def test_r19_a_child_shares_no_lease_lock_or_token(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.forget()
    reader, writer = os.pipe()
    with provider._exclusive():  # as if another thread were in the middle of a request
        child = os.fork()
    if child == 0:
        said = "fine"
        try:
            provider.revoke(grant)
            try:
                provider.renew(grant)
                said = "renewed its parent's lease"
            except LeaseLost:
                pass
            provider.close()
            if provider.requests_sent:
                said = "asked Vault"
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "fine"
    os.waitpid(child, 0)
    assert stub.requests == []
    provider.renew(grant)


def test_r19_a_child_mints_its_own(stub: StubVault, provider: VaultDynamicProvider) -> None:
    provider.fetch()
    stub.forget()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = provider.fetch().credentials.username
            provider.close()
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "v-app-2"
    os.waitpid(child, 0)
    assert stub.asked == ["login", "app", "revoke-self"]
    assert {r.token for r in stub.requests[1:]} == {f"{TOKEN[:-1]}2"}


def test_a_grant_of_another_provider_is_a_mistake(provider: VaultDynamicProvider) -> None:
    with pytest.raises(TypeError, match="does not come from"):
        provider.renew(Grant(Credentials("u", Secret("p")), Lease(0.0)))
