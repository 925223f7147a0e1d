"""R16, R18, R20: what each answer, and each lack of one, becomes."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import requests
from stub_vault import (
    CREDS,
    LOGIN,
    PASSWORD,
    RENEW,
    SECRET_ID,
    Fault,
    Reply,
    StubVault,
    errors,
)

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.providers.vault.http.errors import Kind, Operation, from_exception

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.testing import FakeClock


@pytest.fixture
def make(config: VaultConfig, clock: FakeClock) -> Callable[..., VaultDynamicProvider]:
    def make(role: str = "app", **changed: object) -> VaultDynamicProvider:
        mount = str(changed.pop("mount", "database"))
        return VaultDynamicProvider(
            role,
            auth=AppRoleAuth("role-id", SECRET_ID),
            mount=mount,
            config=replace(config, **changed),  # type: ignore[arg-type]
            clock=clock,
        )

    return make


ANSWERS: dict[str, tuple[Reply, type[EphemeralCredsError], str]] = {
    "400 unknown role": (errors(400, "unknown role: app"), ConfigurationError, "unknown role"),
    "400 upgrading": (
        errors(400, "Upgrading from non-versioned to versioned data. This backend will be …"),
        ProviderUnavailable,
        "Upgrading",
    ),
    "400 one use": (errors(400, "token had one use left"), ConfigurationError, "one use"),
    "401": (errors(401, "who?"), AccessDenied, "who"),
    "403": (errors(403, "* permission denied"), AccessDenied, "permission denied"),
    "404": (errors(404, 'no handler for route "x"'), ConfigurationError, "no handler"),
    "404 bare": (errors(404), ConfigurationError, "no reason given"),
    "405": (errors(405, "unsupported operation"), ConfigurationError, "unsupported"),
    "412": (errors(412, "required index state not present"), ProviderUnavailable, "index state"),
    "429": (errors(429, "rate limit quota exceeded"), ProviderUnavailable, "quota"),
    "473": (errors(473), ProviderUnavailable, "473"),
    "500": (errors(500, "connection refused"), ProviderUnavailable, "connection refused"),
    "500 not allowed": (
        errors(500, '"app" is not an allowed role'),
        ConfigurationError,
        "allowed_roles",
    ),
    "500 concurrent": (
        errors(500, "failed: ERROR: tuple concurrently updated (SQLSTATE XX000)"),
        ProviderUnavailable,
        "the next attempt succeeds",
    ),
    "501": (errors(501, "not initialized"), ProviderUnavailable, "not initialized"),
    "502 html": (Reply(502, "<p>", kind="text/html"), ProviderUnavailable, "text/html"),
    "503": (errors(503, "Vault is sealed"), ProviderUnavailable, "Vault is sealed"),
    "504": (Reply(504), ProviderUnavailable, "empty body"),
    "418": (errors(418, "teapot"), MalformedResponse, "teapot"),
    "403 html": (Reply(403, "<p>", kind="text/html"), MalformedResponse, "not Vault"),
    "404 html": (Reply(404, "<p>", kind="text/html"), MalformedResponse, "not Vault"),
    "400 text": (
        Reply(400, "Client sent an HTTP request to an HTTPS server.", kind="text/plain"),
        MalformedResponse,
        "HTTPS server",
    ),
    "error list": (Reply(500, []), ProviderUnavailable, "application/json"),
    "error null": (Reply(503, "null"), ProviderUnavailable, "application/json"),
    "errors odd": (Reply(500, {"errors": [7, {}]}), ProviderUnavailable, "7"),
    "errors charset": (
        Reply(500, {"errors": ["told"]}, kind="application/json; charset=utf-8"),
        ProviderUnavailable,
        "told",
    ),
    "200 html": (Reply(200, "<html>", kind="text/html"), MalformedResponse, "text/html"),
    "200 empty": (Reply(200), MalformedResponse, "empty body"),
    "200 list": (Reply(200, []), MalformedResponse, "application/json"),
    "200 cut": (Reply(200, '{"lease_id": "x'), MalformedResponse, "application/json"),
    "200 other": (Reply(200, {"hello": 1}), MalformedResponse, "'data'"),
    "204": (Reply(204), MalformedResponse, "'data'"),
    "200 no lease": (Reply(200, {"data": {}}), MalformedResponse, "'lease_id'"),
    "200 odd lease": (
        Reply(200, {"data": {}, "lease_id": "x", "lease_duration": "soon"}),
        MalformedResponse,
        "'lease_duration'",
    ),
    "301": (Reply(301, headers={"Location": "/v1/elsewhere"}), ProviderUnavailable, "redirect"),
    "303": (Reply(303, headers={"Location": "/v1/elsewhere"}), ProviderUnavailable, "redirect"),
    "307 nowhere": (Reply(307), ProviderUnavailable, "does not name"),
    "307 odd": (Reply(307, headers={"Location": "http://[x"}), ProviderUnavailable, "redirect"),
}


@pytest.mark.parametrize("case", ANSWERS.values(), ids=ANSWERS)
def test_r18_each_answer_has_its_error_and_is_asked_for_once(
    stub: StubVault,
    provider: VaultDynamicProvider,
    case: tuple[Reply, type[EphemeralCredsError], str],
) -> None:
    reply, kind, text = case
    stub.script(CREDS, reply)
    with pytest.raises(kind) as caught:
        provider.fetch()
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert stub.address in str(caught.value)
    assert "database/creds/app" in str(caught.value)
    assert stub.asked == ["login", "app"]
    if not isinstance(caught.value, ConfigurationError):
        assert getattr(caught.value, "status", None) == reply.status


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": DATE}, 0.0),
    ],
)
def test_r16_how_long_to_wait_is_kept(
    stub: StubVault,
    provider: VaultDynamicProvider,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    for status in (429, 503):
        stub.script(CREDS, Reply(status, {"errors": []}, headers))
        with pytest.raises(ProviderUnavailable) as caught:
            provider.fetch()
        assert caught.value.retry_after == seconds


def test_r16_a_date_to_wait_for_counts_against_the_servers_own_clock(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    from email.utils import format_datetime, parsedate_to_datetime

    from ephemeral_creds.providers.http.reply import _retry_after

    later = parsedate_to_datetime(DATE).replace(minute=30)
    header = format_datetime(later, usegmt=True)
    assert _retry_after({"Retry-After": header, "Date": DATE}) == 120.0
    assert _retry_after({"Retry-After": header}) is None


DEATHS = [
    "lease not found",
    "lease expired",
    "lease is expired and has failed previous revocation attempts",
    "lease is not renewable",
    "past the max TTL, cannot renew",
    "cannot renew lease, no valid associated token",
]


@pytest.mark.parametrize("text", DEATHS)
def test_r18_a_renewal_is_told_that_the_lease_is_dead(
    stub: StubVault, provider: VaultDynamicProvider, text: str
) -> None:
    grant = provider.fetch()
    stub.script(RENEW, errors(400, text))
    with pytest.raises(LeaseLost, match=text):
        provider.renew(grant)


@pytest.mark.parametrize("text", ["failed to renew entry: dial tcp", "something new"])
def test_r18_any_other_failed_renewal_may_pass(
    stub: StubVault, provider: VaultDynamicProvider, text: str
) -> None:
    grant = provider.fetch()
    stub.script(RENEW, errors(400, text))
    with pytest.raises(ProviderUnavailable, match=text):
        provider.renew(grant)
    assert provider.renew(grant).duration == 3600


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("what", [LOGIN, CREDS, RENEW])
def test_r16_another_host_gets_neither_token_nor_body(
    stub: StubVault, provider: VaultDynamicProvider, status: int, what: str
) -> None:
    with StubVault() as other:
        target = f"{other.address}/v1/sys/leases/renew?secret=1"
        stub.script(what, Reply(status, headers={"Location": target}))
        with pytest.raises(ProviderUnavailable) as caught:
            provider.renew(provider.fetch())
        assert other.requests == []
        assert other.address in str(caught.value)
        assert "secret=1" not in str(caught.value)


def test_r16_a_redirect_to_the_same_host_is_followed_once_with_method_and_body(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    grant = provider.fetch()
    stub.forget()
    moved = Reply(307, headers={"Location": "/elsewhere/v1/sys/leases/renew"})
    stub.script(RENEW, moved)
    provider.renew(grant)
    first, second = stub.requests
    assert second.what == "PUT /elsewhere/v1/sys/leases/renew"
    assert (second.body, second.token) == (first.body, first.token)

    stub.script(RENEW, moved)
    stub.script(second.what, moved)
    with pytest.raises(ProviderUnavailable, match="redirect"):
        provider.renew(grant)


def test_r16_silence_is_bounded_and_never_asked_again(
    stub: StubVault, make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make(read_timeout=1.0)
    provider.fetch()
    stub.script(CREDS, Fault("hang"))
    with pytest.raises(ProviderUnavailable, match="may have carried out the request"):
        provider.fetch()
    assert stub.settled("login", "app", "app")
    provider.close()


def test_r16_a_revocation_has_a_shorter_patience(
    stub: StubVault, make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make(revoke_timeout=0.05)
    grant = provider.fetch()
    stub.script("PUT /v1/sys/leases/revoke", Fault("hang"))
    with pytest.raises(ProviderUnavailable, match="in time"):
        provider.revoke(grant)
    provider.close()


def test_r16_a_reset_is_never_retried(stub: StubVault, provider: VaultDynamicProvider) -> None:
    stub.script(CREDS, Fault("reset"))
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        provider.fetch()
    assert stub.asked == ["login", "app"]
    provider.fetch()


def test_r18_connection_refused(make: Callable[..., VaultDynamicProvider]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        provider = make(address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ProviderUnavailable, match="Connection refused") as caught:
            provider.fetch()
    assert caught.value.status is None
    provider.close()


def test_r16_a_login_sends_no_token_and_netrc_is_not_read(
    stub: StubVault,
    provider: VaultDynamicProvider,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    stub.token_left = 1
    provider.fetch()
    provider.fetch()
    stub.script(CREDS, errors(403), errors(403))
    with pytest.raises(AccessDenied):
        provider.fetch()
    logins = [r for r in stub.requests if r.what == LOGIN]
    assert len(logins) > 1
    assert [r.token for r in logins] == [None] * len(logins)
    assert not any("Authorization" in r.headers for r in stub.requests)
    assert all(r.headers["X-Vault-Request"] == "true" for r in stub.requests)


def test_r20_names_are_percent_encoded(
    stub: StubVault, make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make("a pp?x=1#%", mount="/team a/db/")
    provider.fetch()
    assert stub.requests[1].what == "GET /v1/team%20a/db/creds/a%20pp%3Fx%3D1%23%25"
    provider.close()


@pytest.mark.parametrize("role", ["", "creds/app", "..", "."])
def test_r20_a_role_that_leads_elsewhere_is_refused(
    make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    with pytest.raises(ConfigurationError, match="name of a Vault role"):
        make(role)


@pytest.mark.parametrize("mount", ["", "/", "a//b", "../sys", "a/./b"])
def test_r20_a_mount_that_leads_elsewhere_is_refused(
    make: Callable[..., VaultDynamicProvider], mount: str
) -> None:
    with pytest.raises(ConfigurationError, match="mount"):
        make(mount=mount)


def test_r20_logins_and_leases_have_their_own_namespaces(
    stub: StubVault, make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make(namespace="team/db/", auth_namespace="team")
    provider.renew(provider.fetch())
    stub.forget()
    provider.fetch()
    provider.close()
    other = make(namespace="team", auth_namespace="")
    other.fetch()
    names = [(r.what.rsplit("/", 1)[1], r.headers.get("X-Vault-Namespace")) for r in stub.requests]
    assert names == [
        ("app", "team/db"), ("revoke-self", "team"), ("login", None), ("app", "team"),
    ]  # fmt: skip
    other.close()


def test_r16_a_base_path_is_kept(
    stub: StubVault, make: Callable[..., VaultDynamicProvider]
) -> None:
    provider = make(address=f"{stub.address}/vault/")
    provider.fetch()
    assert stub.requests[1].what == "GET /vault/v1/database/creds/app"
    provider.close()


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ({"username": "u", "rsa_private_key": "k"}, ConfigurationError, "credential_type"),
        ({"client_certificate": "c", "private_key": "k"}, ConfigurationError, "credential_type"),
        ({"value": "x"}, MalformedResponse, "value"),
        ({"username": "u", "password": ""}, MalformedResponse, "password"),
    ],
)
def test_credentials_without_a_password_are_refused_and_revoked(
    stub: StubVault,
    provider: VaultDynamicProvider,
    data: dict[str, str],
    kind: type[EphemeralCredsError],
    text: str,
) -> None:
    stub.script(CREDS, Reply(body=stub.creds(data=data)))
    with pytest.raises(kind, match=text):
        provider.fetch()
    assert stub.asked == ["login", "app", "revoke"]


def test_a_lease_without_a_duration_is_refused_and_revoked(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, Reply(body=stub.creds(lease_duration=0)))
    with pytest.raises(MalformedResponse, match="a lease of 0 seconds"):
        provider.fetch()
    assert stub.asked == ["login", "app", "revoke"]


def test_a_lease_that_cannot_be_renewed_says_so(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, Reply(body=stub.creds(renewable=False)))
    assert not provider.fetch().lease.renewable


@pytest.mark.parametrize(
    ("auth", "kind", "text"),
    [
        (None, MalformedResponse, "'auth'"),
        ({}, MalformedResponse, "client_token"),
        ({"mfa_requirement": {"id": 1}}, MalformedResponse, "second factor"),
        ({"client_token": "x", "lease_duration": True}, MalformedResponse, "lease_duration"),
    ],
)
def test_a_login_that_brings_no_token(
    stub: StubVault,
    provider: VaultDynamicProvider,
    auth: object,
    kind: type[EphemeralCredsError],
    text: str,
) -> None:
    stub.script(LOGIN, Reply(body={"auth": auth}))
    with pytest.raises(kind, match=text):
        provider.fetch()


def test_vaults_message_is_shortened_to_one_line(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    stub.script(CREDS, errors(500, "1 error occurred:\n\t* " + "x" * 5000))
    with pytest.raises(ProviderUnavailable) as caught:
        provider.fetch()
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert "x…; check" in str(caught.value)


# What a test server cannot easily bring about.
NO_ANSWERS: dict[str, tuple[Exception, type[EphemeralCredsError], str]] = {
    "connect timeout": (requests.ConnectTimeout("x"), ProviderUnavailable, "accept"),
    "handshake": (
        requests.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred")),
        ProviderUnavailable,
        "EOF occurred",
    ),
    "proxy": (requests.exceptions.ProxyError("http://me:pw@p"), ProviderUnavailable, "ProxyError"),
    "decoding": (requests.exceptions.ContentDecodingError(), MalformedResponse, "decoded"),
    "cut": (requests.exceptions.ChunkedEncodingError(), ProviderUnavailable, "Chunked"),
    "no bundle": (OSError("no CA bundle at /x"), ConfigurationError, "/x"),
    "no file": (FileNotFoundError(2, "No such file"), ConfigurationError, "No such file"),
    "header": (requests.exceptions.InvalidHeader(PASSWORD), ConfigurationError, "InvalidHeader"),
    "unicode": (
        UnicodeEncodeError("latin-1", PASSWORD + "☠", 0, 1, "no"),
        ConfigurationError,
        "UnicodeEncodeError",
    ),
    "bug": (KeyError(PASSWORD), ProviderUnavailable, "KeyError"),
}


@pytest.mark.parametrize("case", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_r18_each_lack_of_an_answer_has_its_error(
    case: tuple[Exception, type[EphemeralCredsError], str],
) -> None:
    error, kind, text = case
    made = from_exception(Operation(Kind.MINT, "a thing", "", address="http://v"), error)
    assert type(made) is kind
    assert text in str(made)
    assert PASSWORD not in str(made)
    assert "me:pw" not in str(made)


def test_r16_a_ca_bundle_that_is_missing_is_named(
    make: Callable[..., VaultDynamicProvider],
) -> None:
    provider = make(address="https://127.0.0.1:1", verify="/nonexistent/ca.pem")
    with pytest.raises(ConfigurationError, match=r"/nonexistent/ca\.pem"):
        provider.fetch()
    provider.close()


def test_no_two_requests_are_equal(
    make: Callable[..., VaultDynamicProvider], stub: StubVault
) -> None:
    """Else an agent's cache would answer the second with what the first one brought."""
    provider = make()
    provider.fetch()
    provider.fetch()
    ids = [request.headers.get("X-Request-ID") for request in stub.requests]
    assert None not in ids
    assert len(set(ids)) == len(ids) >= 3
