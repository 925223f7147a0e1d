"""Every request to Vault is an event, with what an audit needs and no secret."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from stub_vault import (
    CREDS,
    LOGIN,
    LOOKUP,
    RENEW,
    REVOKE,
    SECRET_ID,
    Fault,
    Reply,
    StubVault,
    errors,
)

from ephemeral_creds import CredentialKeeper, Event
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import EphemeralCredsError, LeaseLost
from ephemeral_creds.providers.vault import (
    AppRoleAuth,
    JWTAuth,
    UserpassAuth,
    VaultConfig,
    VaultDynamicProvider,
)

if TYPE_CHECKING:
    from ephemeral_creds.providers.vault import AuthMethod
    from ephemeral_creds.testing import FakeClock


@pytest.fixture
def seen(provider: VaultDynamicProvider) -> list[ProviderRequest]:
    found: list[ProviderRequest] = []

    def note(event: Event) -> None:
        assert isinstance(event, ProviderRequest)
        found.append(event)

    provider.observe(note)
    return found


def test_a_life_is_reported_from_login_to_logout(
    stub: StubVault, provider: VaultDynamicProvider, seen: list[ProviderRequest]
) -> None:
    grant = provider.fetch()
    provider.renew(grant)
    provider.revoke(grant)
    provider.close()
    assert [(e.operation, e.outcome, e.status) for e in seen] == [
        ("login", "done", 200),
        ("mint", "done", 200),
        ("renew", "done", 200),
        ("revoke", "done", 204),
        ("revoke-token", "done", 204),
    ]
    login, mint, renewal, revocation, logout = seen
    assert (login.mount, login.role) == ("auth/approle", "")  # whose id is not shown
    assert {(e.mount, e.role) for e in (mint, renewal, revocation)} == {("database", "app")}
    assert (logout.mount, logout.role) == ("auth/token", "")
    assert {e.address for e in seen} == {stub.address}
    assert {e.accessor for e in seen} == {"accessor-1"}
    assert {mint.lease, renewal.lease, revocation.lease} == {"database/creds/app/lease1"}
    assert all(e.duration >= 0 and e.error == "" for e in seen)


def test_a_long_lease_id_is_shortened(
    stub: StubVault, provider: VaultDynamicProvider, seen: list[ProviderRequest]
) -> None:
    stub.script(CREDS, Reply(body=stub.creds(lease_id="database/creds/app/AbCdEfGhIjKlMnOp")))
    provider.fetch()
    assert seen[-1].lease == "database/creds/app/AbCdEf…"


LEASE = "database/creds/app/AbCdEfGhIjKlMnOp"


@pytest.mark.parametrize(
    "reply",
    [errors(403, "permission denied"), errors(400, f"failed to end {LEASE}"), Fault("reset")],
    ids=["denied", "repeated", "no answer"],
)
@pytest.mark.parametrize("what", [RENEW, REVOKE])
def test_no_complete_lease_id_is_shown(
    stub: StubVault,
    provider: VaultDynamicProvider,
    seen: list[ProviderRequest],
    reply: Reply | Fault,
    what: str,
) -> None:
    """Neither ours nor what Vault repeats of it."""
    stub.script(CREDS, Reply(body=stub.creds(lease_id=LEASE)))
    grant = provider.fetch()
    stub.script(what, reply)
    with pytest.raises(EphemeralCredsError) as caught:
        (provider.renew if what == RENEW else provider.revoke)(grant)
    for text in (str(caught.value), repr(seen)):
        assert "database/creds/app/AbCdEf…" in text
        assert "GhIjKl" not in text


def test_no_complete_lease_id_of_a_dead_token_is_shown(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, Reply(body=stub.creds(lease_id=LEASE)))
    grant = provider.fetch()
    stub.script(RENEW, errors(403, "permission denied"))
    stub.script(LOOKUP, errors(403, "permission denied"))
    with pytest.raises(LeaseLost, match="lease database/creds/app/AbCdEf… is expired or revoked"):
        provider.renew(grant)


@pytest.mark.parametrize(
    ("auth", "mount", "role"),
    [
        (JWTAuth("ci", "jwt", mount="gitlab"), "auth/gitlab", "ci"),
        (UserpassAuth("me", "password"), "auth/userpass", "me"),
    ],
    ids=["role", "user"],
)
def test_a_login_says_as_whom(
    stub: StubVault, config: VaultConfig, auth: AuthMethod, mount: str, role: str
) -> None:
    provider = VaultDynamicProvider("app", auth=auth, config=config)
    seen: list[Event] = []
    provider.observe(seen.append)
    stub.script("POST /v1/auth/userpass/login/me", Reply(body={"auth": stub.auth("hvs.1")}))
    provider.fetch()
    provider.close()
    assert isinstance(seen[0], ProviderRequest)
    assert (seen[0].operation, seen[0].role) == ("login", role)
    assert seen[0].mount == mount


def test_unwrapping_is_an_operation_of_its_own(stub: StubVault, config: VaultConfig) -> None:
    stub.script("PUT /v1/sys/wrapping/unwrap", Reply(body={"data": {"secret_id": SECRET_ID}}))
    stub.script("POST /v1/sys/wrapping/unwrap", Reply(body={"data": {"secret_id": SECRET_ID}}))
    auth = AppRoleAuth("role-id", "wrapping-token", wrapped=True)
    provider = VaultDynamicProvider("app", auth=auth, config=config)
    seen: list[Event] = []
    provider.observe(seen.append)
    provider.fetch()
    provider.close()
    operations = [event.operation for event in seen if isinstance(event, ProviderRequest)]
    assert operations == ["unwrap", "login", "mint", "revoke-token"]


def test_the_duration_of_a_request_is_reported(
    stub: StubVault,
    provider: VaultDynamicProvider,
    seen: list[ProviderRequest],
    clock: FakeClock,
) -> None:
    stub.before = lambda _: clock.advance(1.5)
    provider.fetch()
    assert [e.duration for e in seen] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("reply", "outcome", "status"),
    [
        (errors(403, "permission denied"), "refused", 403),
        (errors(400, "unknown role: app"), "refused", 400),
        (errors(500, "connection refused"), "failed", 500),
        (errors(429), "failed", 429),
        (Reply(200, "<html>", kind="text/html"), "unknown", 200),
        (Reply(200, {"data": {}}), "unknown", 200),
        (Fault("reset"), "unknown", None),
    ],
)
def test_a_mint_without_success_says_whether_it_is_in_doubt(
    stub: StubVault,
    provider: VaultDynamicProvider,
    seen: list[ProviderRequest],
    reply: Reply | Fault,
    outcome: str,
    status: int | None,
) -> None:
    stub.script(CREDS, reply)
    with pytest.raises(EphemeralCredsError) as caught:
        provider.fetch()
    assert (seen[-1].operation, seen[-1].outcome, seen[-1].status) == ("mint", outcome, status)
    assert seen[-1].error == f"{type(caught.value).__name__}: {caught.value}"


def test_a_refused_login_and_a_lost_lease_are_refusals(
    stub: StubVault, provider: VaultDynamicProvider, seen: list[ProviderRequest]
) -> None:
    stub.script(LOGIN, errors(400, "invalid secret id"))
    with pytest.raises(EphemeralCredsError):
        provider.fetch()
    grant = provider.fetch()
    stub.script(RENEW, errors(400, "lease not found"))
    with pytest.raises(EphemeralCredsError):
        provider.renew(grant)
    assert [(e.operation, e.outcome) for e in seen] == [
        ("login", "refused"), ("login", "done"), ("mint", "done"), ("renew", "refused"),
    ]  # fmt: skip


def test_a_refused_connection_is_not_in_doubt(config: VaultConfig) -> None:
    provider = VaultDynamicProvider(
        "app",
        auth=AppRoleAuth("role-id", SECRET_ID),
        config=replace(config, address="http://127.0.0.1:1"),
    )
    seen: list[Event] = []
    provider.observe(seen.append)
    with pytest.raises(EphemeralCredsError):
        provider.fetch()
    (event,) = seen
    assert isinstance(event, ProviderRequest)
    assert event.outcome == "failed"


def test_an_observer_may_use_the_provider(provider: VaultDynamicProvider) -> None:
    sent: list[int] = []

    def ask(event: Event) -> None:
        del event
        sent.append(provider.requests_sent)
        provider.close()  # takes the lock that a request holds

    provider.observe(ask)
    provider.fetch()
    assert sent[:2] == [2, 3]


def test_a_keeper_passes_them_on_under_its_name(
    provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    seen: list[Event] = []
    observers = [seen.append]
    with CredentialKeeper(provider, observers=observers, clock=clock, name="orders") as keeper:
        keeper.wait(10)
    requests = [e for e in seen if isinstance(e, ProviderRequest)]
    assert [e.operation for e in requests] == ["login", "mint", "revoke", "revoke-token"]
    assert {e.keeper for e in requests} == {"orders"}
