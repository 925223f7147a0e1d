"""R3, R17: the deadline is the earlier one of lease and token, and 403s are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stub_vault import (
    CREDS,
    DENIED,
    LOGIN,
    LOOKUP,
    RENEW,
    RENEW_TOKEN,
    REVOKE,
    REVOKE_TOKEN,
    TOKEN,
    Reply,
    errors,
)

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import TokenAuth, VaultDynamicProvider

if TYPE_CHECKING:
    from stub_vault import StubVault

    from ephemeral_creds.providers.vault import VaultConfig
    from ephemeral_creds.testing import FakeClock

FIRST, SECOND = f"{TOKEN[:-1]}1", f"{TOKEN[:-1]}2"


def test_r3_a_fetch_logs_in_once_and_mints(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 0
    grant = provider.fetch()
    assert stub.asked == ["login", "app"]
    assert grant.credentials.username == "v-app-1"
    assert grant.lease.requested_at == clock.now()
    assert grant.lease.duration == 3600
    assert grant.lease.renewable
    assert grant.lease.lease_id == "database/creds/app/lease1"
    provider.fetch()
    assert stub.asked == ["login", "app", "app"]


def test_r3_a_lease_that_outlives_its_token_is_as_long_as_the_token(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.token_ttl = 1200
    lease = provider.fetch().lease
    assert lease.duration == 1200
    assert lease.renewable  # the token can be extended


def test_r3_a_token_that_gets_no_more_time_makes_its_lease_unrenewable(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.token_ttl, stub.renewable = 1200, False
    lease = provider.fetch().lease
    assert lease.duration == 1200
    assert not lease.renewable


def test_a_batch_token_is_neither_renewed_nor_revoked(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.token_type, stub.token_ttl = "batch", 1200
    grant = provider.fetch()
    assert not grant.lease.renewable
    provider.revoke(grant)
    provider.close()
    assert stub.asked == ["login", "app", "revoke"]


def test_r3_a_renewal_is_one_request_under_the_grants_own_token(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 36000
    grant = provider.fetch()
    stub.forget()
    sent = provider.requests_sent
    clock.advance(2400)
    lease = provider.renew(grant)
    assert stub.asked == ["renew"]
    assert provider.requests_sent == sent + 1
    assert stub.requests[0].token == FIRST
    assert stub.requests[0].body == {"lease_id": grant.lease.lease_id, "increment": 3600}
    assert (lease.requested_at, lease.duration) == (clock.now(), 3600)


def test_r3_the_token_is_extended_first_where_it_would_be_the_limit(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 3600
    grant = provider.fetch()
    stub.forget()
    clock.advance(2400)
    assert provider.renew(grant).duration == 3600
    assert stub.asked == ["renew-self", "renew"]
    assert stub.requests[0].body == {"increment": 3600}


def test_r3_a_long_token_stays_long(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 7200
    grant = provider.fetch()
    stub.forget()
    for _ in range(5):
        clock.advance(2400)
        assert provider.renew(grant).duration == 3600
    # At 2400 s it has enough left; at 4800 s and 9600 s it is given its two hours again.
    assert stub.asked == ["renew", *["renew-self", "renew", "renew"] * 2]


def test_r3_a_capped_lease_comes_back_shorter(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.token_ttl, stub.lease_left = 0, 741
    assert provider.renew(provider.fetch()).duration == 741


def test_r3_a_capped_token_shortens_the_lease_and_the_next_fetch_logs_in(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    old = provider.fetch()
    clock.advance(2400)
    stub.token_left = 1300
    lease = provider.renew(old)
    assert lease.duration == 1300
    assert not lease.renewable
    stub.forget()
    new = provider.fetch()
    assert stub.asked == ["login", "app"]  # not asked a second time for what it cannot get
    assert stub.requests[1].token == SECOND
    stub.forget()
    provider.renew(new)
    provider.revoke(old)
    assert stub.asked == ["renew", "revoke", "revoke-self"]
    assert [r.token for r in stub.requests] == [SECOND, FIRST, FIRST]


def test_r3_a_token_too_short_for_the_next_lease_is_extended_before_the_mint(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    provider.fetch()
    clock.advance(600)
    stub.forget()
    assert provider.fetch().lease.duration == 3600
    assert stub.asked == ["renew-self", "app"]


def test_r3_a_long_token_is_extended_when_a_third_is_left(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = 36000
    provider.fetch()
    clock.advance(25000)
    stub.forget()
    provider.fetch()
    assert stub.asked == ["renew-self", "app"]
    assert stub.requests[0].body == {"increment": 36000}


@pytest.mark.parametrize(
    "refusal",
    [
        errors(400, "lease is not renewable"),
        errors(500, "past the max TTL, cannot renew"),
        Reply(body={"auth": {"lease_duration": 60, "renewable": True}}),
    ],
    ids=["400", "500", "short"],
)
def test_r3_a_token_that_cannot_be_extended_is_replaced_before_the_mint(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock, refusal: Reply
) -> None:
    provider.fetch()
    clock.advance(2400)
    stub.script(RENEW_TOKEN, refusal)
    stub.forget()
    assert provider.fetch().lease.duration == 3600
    assert stub.asked == ["renew-self", "login", "app"]


def test_r3_a_policy_that_forbids_extending_the_token_is_no_dead_token(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    grant = provider.fetch()
    clock.advance(2400)
    stub.script(RENEW_TOKEN, DENIED)
    assert provider.renew(grant).duration == 1200
    assert stub.asked[2:] == ["renew-self", "lookup-self", "renew"]


def test_r3_a_periodic_token_shorter_than_the_lease_needs_no_login(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl = stub.token_left = 1200
    grant = provider.fetch()
    for _ in range(3):
        clock.advance(800)
        lease = provider.renew(grant)
        assert (lease.duration, lease.renewable) == (1200, True)
    clock.advance(800)
    provider.fetch()
    assert stub.asked.count("login") == 1


def test_r3_a_given_periodic_token_is_known_by_its_period(
    stub: StubVault, config: VaultConfig, clock: FakeClock
) -> None:
    data = {"ttl": 700, "renewable": True, "type": "service", "period": 1200}
    stub.script(LOOKUP, Reply(body={"data": data}))
    stub.token_ttl = stub.token_left = 1200
    provider = VaultDynamicProvider("app", auth=TokenAuth(FIRST), config=config, clock=clock)
    grant = provider.fetch()
    assert (grant.lease.duration, grant.lease.renewable) == (700, True)
    for _ in range(2):
        clock.advance(600)
        lease = provider.renew(grant)
        assert (lease.duration, lease.renewable) == (1200, True)
    provider.close()


def test_r3_a_lease_that_ends_with_a_batch_token_is_not_renewable(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    # Vault has cut it to the token's end, rounded down.
    stub.token_type, stub.token_ttl, stub.lease_ttl = "batch", 1200, 1199
    lease = provider.fetch().lease
    assert (lease.duration, lease.renewable) == (1199, False)


def test_a_login_that_fails_does_not_stop_a_mint_that_can_be_done(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    stub.token_ttl, stub.renewable = 36000, False
    provider.fetch()
    clock.advance(30000)
    stub.script(LOGIN, errors(400, "invalid role or secret ID"))
    assert provider.fetch().lease.duration == 3600
    clock.advance(4000)  # now the token would cut the lease short
    stub.script(LOGIN, errors(400, "invalid role or secret ID"))
    with pytest.raises(AccessDenied, match="secret id is expired or used up"):
        provider.fetch()


def test_a_vault_that_does_not_answer_is_not_asked_for_a_login_too(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    provider.fetch()
    clock.advance(2400)
    stub.forget()
    stub.script(RENEW_TOKEN, errors(503, "Vault is sealed"))
    with pytest.raises(ProviderUnavailable, match="sealed"):
        provider.fetch()
    assert stub.asked == ["renew-self"]


def test_r17_a_dead_token_is_replaced_and_the_mint_repeated_once(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    provider.fetch()
    stub.forget()
    stub.script(CREDS, DENIED)
    stub.script(LOOKUP, DENIED)
    provider.fetch()
    assert stub.asked == ["app", "lookup-self", "login", "app"]
    assert stub.requests[-1].token == SECOND


def test_r17_a_fresh_login_that_is_refused_is_not_repeated(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, DENIED)
    with pytest.raises(AccessDenied) as caught:
        provider.fetch()
    assert stub.asked == ["login", "app"]
    assert 'path "database/creds/app" { capabilities = ["read"] }' in str(caught.value)
    assert caught.value.status == 403


def test_r17_a_refusal_logs_in_at_most_once_per_fetch_and_leaves_no_token_behind(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, *[DENIED] * 5)
    for _ in range(3):
        with pytest.raises(AccessDenied):
            provider.fetch()
    # A token keeps the policies of its login: only another one can bring others.
    again = ["app", "lookup-self", "login", "revoke-self", "app"]
    assert stub.asked == ["login", "app", *again, *again]
    assert provider.fetch().credentials.username == "v-app-1"


def test_r17_a_failed_second_login_does_not_hide_the_missing_policy(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    provider.fetch()
    stub.script(CREDS, DENIED)
    stub.script(LOGIN, errors(400, "invalid role or secret ID"))
    with pytest.raises(AccessDenied, match="database/creds/app"):
        provider.fetch()
    provider.fetch()  # under the token that is still good
    assert stub.requests[-1].token == FIRST


def test_r17_a_renewal_under_a_dead_token_is_a_lost_lease(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.forget()
    stub.script(RENEW, DENIED)
    stub.script(LOOKUP, DENIED)
    with pytest.raises(LeaseLost, match=r"token of lease .* expired or revoked"):
        provider.renew(grant)
    with pytest.raises(LeaseLost):
        provider.renew(grant)
    assert stub.asked == ["renew", "lookup-self"]
    stub.forget()
    provider.fetch()
    assert stub.asked == ["login", "app"]
    stub.forget()
    provider.revoke(grant)
    assert [(r.what, r.token) for r in stub.requests] == [(REVOKE, SECOND)]


def test_r17_a_token_found_dead_when_extending_it_is_a_lost_lease(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    grant = provider.fetch()
    clock.advance(3000)
    stub.script(RENEW_TOKEN, DENIED)
    stub.script(LOOKUP, DENIED)
    with pytest.raises(LeaseLost):
        provider.renew(grant)


def test_r17_a_renewal_that_policy_forbids_names_the_line_that_is_missing(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.script(RENEW, DENIED)
    with pytest.raises(AccessDenied) as caught:
        provider.renew(grant)
    assert 'path "sys/leases/renew" { capabilities = ["update"] }' in str(caught.value)


def test_a_token_that_was_given_is_looked_up_and_never_revoked(
    stub: StubVault, config: VaultConfig, clock: FakeClock
) -> None:
    auth = TokenAuth(Secret(FIRST))
    provider = VaultDynamicProvider("app", auth=auth, config=config, clock=clock)
    grant = provider.fetch()
    clock.advance(2400)
    stub.script(RENEW_TOKEN, errors(400, "lease is not renewable"))
    provider.fetch()  # looks it up again: still the same token, not a superseded one
    provider.revoke(grant)
    provider.close()
    assert stub.asked == ["lookup-self", "app", "renew-self", "lookup-self", "app", "revoke"]
    assert {r.token for r in stub.requests} == {FIRST}


def test_a_token_that_never_expires_is_no_limit(
    stub: StubVault, config: VaultConfig, clock: FakeClock
) -> None:
    stub.token_ttl = 0
    provider = VaultDynamicProvider("app", auth=TokenAuth(FIRST), config=config, clock=clock)
    grant = provider.fetch()
    clock.advance(1e7)
    assert provider.renew(grant).duration == 3600
    assert stub.asked == ["lookup-self", "app", "renew"]
    provider.close()


def test_a_token_for_a_few_requests_is_refused_and_revoked(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(LOGIN, Reply(body={"auth": stub.auth(FIRST) | {"num_uses": 3}}))
    with pytest.raises(ConfigurationError, match=r"3 more requests.*token_num_uses"):
        provider.fetch()
    assert stub.asked == ["login", "revoke-self"]


def test_r14_a_revocation_that_policy_forbids_says_so(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.script(REVOKE, DENIED)
    with pytest.raises(AccessDenied, match=r"default policy.*sys/leases/revoke"):
        provider.revoke(grant)
    assert REVOKE_TOKEN not in [r.what for r in stub.requests]


def test_r14_a_forbidden_revocation_is_done_by_revoking_a_superseded_token(
    stub: StubVault, provider: VaultDynamicProvider, clock: FakeClock
) -> None:
    first, second = provider.fetch(), provider.fetch()
    clock.advance(2400)
    stub.token_left = 100
    provider.fetch()
    stub.forget()
    stub.script(REVOKE, DENIED, DENIED)
    with pytest.raises(AccessDenied):  # another grant still lives by that token
        provider.revoke(first)
    provider.revoke(second)
    assert stub.asked == ["revoke", "lookup-self", "revoke", "revoke-self"]
    assert {r.token for r in stub.requests} == {FIRST}


def test_r14_an_unknown_lease_counts_as_revoked(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.script(REVOKE, errors(400, "lease not found"), Reply(202))
    provider.revoke(grant)
    provider.revoke(grant)


def test_r14_a_revocation_that_the_database_refuses_may_be_tried_again(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.script(REVOKE, errors(400, "failed to revoke entry: role owns objects"))
    with pytest.raises(ProviderUnavailable, match="owns objects"):
        provider.revoke(grant)
    provider.revoke(grant)
