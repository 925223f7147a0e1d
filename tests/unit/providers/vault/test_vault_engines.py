"""Engines with names of their own, and static roles as a server may describe them."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import pytest
from stub_vault import CREDS, DENIED, PASSWORD, REVOKE, TOKEN, Reply, StubVault, errors

from ephemeral_creds import Credentials, Secret, provider_from_url
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import (
    AppRoleAuth,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
    VaultStaticProvider,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import FakeClock

STATIC = "GET /v1/database/static-creds/app"


@pytest.fixture
def static(config: VaultConfig, clock: FakeClock) -> Iterator[VaultStaticProvider]:
    provider = VaultStaticProvider("app", auth=AppRoleAuth("role"), config=config, clock=clock)
    yield provider
    provider.close()


def data(**changed: object) -> Reply:
    known: dict[str, object] = {"username": "app", "password": PASSWORD, "ttl": 60}
    fields = {name: value for name, value in (known | changed).items() if value is not None}
    return Reply(body={"lease_id": "", "lease_duration": 0, "renewable": False, "data": fields})


class TestFields:
    def test_an_engine_with_names_of_its_own(self, stub: StubVault, config: VaultConfig) -> None:
        answer = stub.creds(data={"db_user": "v-1", "db_pass": PASSWORD, "username": "not this"})
        stub.script(CREDS, Reply(body=answer))
        fields = {"username": "db_user", "password": "db_pass"}
        auth = AppRoleAuth("role")
        provider = VaultDynamicProvider("app", auth=auth, fields=fields, config=config)
        with contextlib.closing(provider):
            assert provider.fetch().credentials.username == "v-1"

    def test_the_same_by_url(self, stub: StubVault) -> None:
        stub.script(CREDS, Reply(body=stub.creds(data={"user": "v-1", "password": PASSWORD})))
        url = f"vault://app?auth=token&token_env=T&username_field=user&address={stub.address}"
        with contextlib.closing(provider_from_url(url, environ={"T": TOKEN})) as provider:
            credentials = provider.fetch().credentials
        assert credentials == Credentials("v-1", Secret(PASSWORD))

    def test_a_name_that_the_answer_lacks(self, stub: StubVault, config: VaultConfig) -> None:
        provider = VaultDynamicProvider(
            "app", auth=AppRoleAuth("role"), fields={"username": "user"}, config=config
        )
        with (
            contextlib.closing(provider),
            pytest.raises(MalformedResponse, match=r"gave password, username instead of user and"),
        ):
            provider.fetch()
        # The role that is not going to be used is revoked.
        assert REVOKE in [request.what for request in stub.requests]

    @pytest.mark.parametrize("fields", [{"user": "x"}, {"username": ""}])
    def test_fields_that_cannot_be_right(self, config: VaultConfig, fields: dict[str, str]) -> None:
        with pytest.raises(ConfigurationError, match="fields"):
            VaultDynamicProvider("app", auth=TokenAuth("t"), fields=fields, config=config)


class TestStatic:
    def test_one_read_and_nothing_else(self, stub: StubVault, static: VaultStaticProvider) -> None:
        stub.script(STATIC, data())
        grant = static.fetch()
        assert stub.asked == ["login", "app"]
        assert grant.lease.rotates_in == 60
        assert grant.lease.requested_at == 1000
        assert (grant.lease.duration, grant.lease.lease_id) == (math.inf, "")
        # The token lives an hour, and is extended when a third is left.
        assert grant.lease.ask_again_in == 2401

    @pytest.mark.parametrize(
        ("changed", "rotates_in"),
        [
            ({"ttl": 0}, 0),
            ({"ttl": 59.6}, 59.6),
            ({"ttl": "59"}, 59),
            ({"rotation_schedule": "0 0 * * SAT", "rotation_window": 3600}, 60),
            ({"ttl": -3}, 0),
        ],
    )
    def test_the_ttl_of_a_static_role_is_read(
        self,
        stub: StubVault,
        static: VaultStaticProvider,
        changed: dict[str, object],
        rotates_in: float,
    ) -> None:
        stub.script(STATIC, data(**changed))
        assert static.fetch().lease.rotates_in == rotates_in

    def test_a_server_that_does_not_say_is_asked_now_and_then(
        self, stub: StubVault, static: VaultStaticProvider
    ) -> None:
        stub.script(STATIC, data(ttl=None))
        lease = static.fetch().lease
        assert (lease.rotates_in, lease.ask_again_in) == (math.inf, 300)

    @pytest.mark.parametrize(
        ("reply", "error", "text"),
        [
            (data(password=None), MalformedResponse, "gave ttl, username instead of"),
            (data(password=None, rsa_private_key="x"), ConfigurationError, "credential_type"),
            (data(ttl="soon"), MalformedResponse, "no number of seconds as 'ttl'"),
            (errors(400, "unknown role: app"), ConfigurationError, "with a static role 'app'"),
            (errors(404), ConfigurationError, "with a static role 'app'"),
            (errors(503, "Vault is sealed"), ProviderUnavailable, "unseal it"),
            (Reply(body={"data": None}), MalformedResponse, "no 'data'"),
        ],
    )
    def test_answers_of_no_use(
        self,
        stub: StubVault,
        static: VaultStaticProvider,
        reply: Reply,
        error: type[Exception],
        text: str,
    ) -> None:
        stub.script(STATIC, reply)
        with pytest.raises(error, match=text):
            static.fetch()

    def test_r17_a_missing_policy_names_the_line_after_one_fresh_login(
        self, stub: StubVault, static: VaultStaticProvider
    ) -> None:
        stub.script(STATIC, data(), DENIED, DENIED)
        static.fetch()
        stub.forget()
        with pytest.raises(AccessDenied, match='path "database/static-creds/app"'):
            static.fetch()
        assert stub.asked == ["app", "lookup-self", "login", "revoke-self", "app"]

    def test_a_token_that_is_low_is_extended(
        self, stub: StubVault, static: VaultStaticProvider, clock: FakeClock
    ) -> None:
        stub.script(STATIC, data(), data())
        clock.advance(static.fetch().lease.ask_again_in)
        stub.forget()
        assert static.fetch().lease.ask_again_in == 2401
        assert stub.asked == ["renew-self", "app"]

    def test_closing_revokes_the_token(self, stub: StubVault, static: VaultStaticProvider) -> None:
        stub.script(STATIC, data())
        grant = static.fetch()
        static.revoke(grant)
        static.close()
        assert stub.asked == ["login", "app", "revoke-self"]
