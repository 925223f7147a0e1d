"""Who we say we are, and where it is read from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from stub_vault import DENIED, LOGIN, LOOKUP, SECRET_ID, TOKEN, Reply, errors

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import AccessDenied, ConfigurationError, ProviderUnavailable
from ephemeral_creds.providers.vault import AppRoleAuth, KubernetesAuth, TokenAuth
from ephemeral_creds.providers.vault.http.client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stub_vault import StubVault

    from canary import Canary
    from ephemeral_creds.providers.vault import VaultConfig
    from ephemeral_creds.testing import FakeClock

KUBERNETES = "POST /v1/auth/kubernetes/login"


@pytest.fixture
def client(config: VaultConfig) -> Iterator[VaultClient]:
    made = VaultClient(config)
    yield made
    made.close()


def test_an_approle_login(stub: StubVault, client: VaultClient, clock: FakeClock) -> None:
    token = AppRoleAuth("role-id", Secret(SECRET_ID), mount="/team a/").login(client, clock)
    assert stub.requests[0].what == "POST /v1/auth/team%20a/login"
    assert stub.requests[0].body == {"role_id": "role-id", "secret_id": SECRET_ID}
    assert token.value.reveal().startswith(TOKEN[:-1])
    assert (token.requested_at, token.ttl, token.expires_at) == (1000, 3600, 4600)
    assert token.renewable
    assert token.revocable


def test_a_login_for_a_token_that_never_expires(
    stub: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    stub.token_ttl = 0
    assert AppRoleAuth("role-id").login(client, clock).ttl == math.inf


def test_an_approle_secret_id_is_read_from_its_file_at_each_login(
    stub: StubVault, client: VaultClient, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "secret-id"
    auth = AppRoleAuth("role-id", secret_id_file=path)
    for number in range(2):
        path.write_text(f"id-{number}\n")
        auth.login(client, clock)
    assert [r.body["secret_id"] for r in stub.requests] == ["id-0", "id-1"]


def test_a_kubernetes_login_reads_the_jwt_each_time(
    stub: StubVault, client: VaultClient, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    auth = KubernetesAuth("my-app", jwt_path=path)
    for number in range(2):
        path.write_text(f"jwt-{number}")
        auth.login(client, clock)
    assert [r.what for r in stub.requests] == [KUBERNETES] * 2
    assert [r.body for r in stub.requests] == [
        {"role": "my-app", "jwt": "jwt-0"},
        {"role": "my-app", "jwt": "jwt-1"},
    ]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_file_that_holds_nothing_usable_is_named(
    client: VaultClient, clock: FakeClock, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    for auth in (
        TokenAuth(path=path),
        AppRoleAuth("role-id", secret_id_file=path),
        KubernetesAuth("my-app", jwt_path=path),
    ):
        with pytest.raises(ConfigurationError, match=str(path)):
            auth.login(client, clock)


def test_two_sources_for_one_secret_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        TokenAuth(TOKEN, path=tmp_path)
    with pytest.raises(ConfigurationError, match="not both"):
        AppRoleAuth("role-id", SECRET_ID, secret_id_file=tmp_path)


@pytest.mark.parametrize("mount", ["", "../sys", "a//b"])
def test_r20_an_auth_mount_that_leads_elsewhere_is_refused(mount: str) -> None:
    with pytest.raises(ConfigurationError, match="mount"):
        KubernetesAuth("my-app", mount=mount)


REFUSALS = [
    (errors(400, "invalid role or secret ID"), AccessDenied, "secret id is expired"),
    (errors(400, 'invalid role name "app"'), ConfigurationError, "check the mount"),
    (errors(403, "permission denied"), AccessDenied, "check the mount"),
    (errors(404, "no handler for route"), ConfigurationError, "auth/approle"),
    (errors(500, "internal error"), ProviderUnavailable, "internal error"),
    *(
        (errors(status, f"error validating token: {early}"), ProviderUnavailable, "synchronise")
        for status in (400, 403)
        for early in (
            "invalid not before (nbf) claim: token not yet valid",
            "invalid issued at (iat) claim: token issued in the future",
            "go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)",
        )
    ),
]


@pytest.mark.parametrize(("reply", "kind", "text"), REFUSALS)
def test_r18_a_login_that_is_refused(
    stub: StubVault,
    client: VaultClient,
    clock: FakeClock,
    reply: Reply,
    kind: type[Exception],
    text: str,
) -> None:
    stub.script(LOGIN, reply)
    with pytest.raises(kind, match=text):
        AppRoleAuth("role-id", SECRET_ID).login(client, clock)


@pytest.mark.parametrize(("seconds", "ttl"), [(0, math.inf), (60, 60), (-1, 0)])
def test_how_long_the_token_of_a_login_lives(
    stub: StubVault, client: VaultClient, clock: FakeClock, seconds: int, ttl: float
) -> None:
    """0 is without an end; less has ended on the way here, and must not be."""
    stub.token_ttl = seconds
    assert AppRoleAuth("role-id", SECRET_ID).login(client, clock).ttl == ttl


def test_a_given_token_is_looked_up(stub: StubVault, client: VaultClient, clock: FakeClock) -> None:
    data = {"ttl": 60, "renewable": True, "type": "service", "num_uses": 4, "period": 60}
    stub.script(LOOKUP, Reply(body={"data": data}))
    token = TokenAuth(TOKEN).login(client, clock)
    assert (token.ttl, token.renewable, token.revocable, token.uses) == (60, True, False, 4)
    stub.script(LOOKUP, Reply(body={"data": {"ttl": 0, "expire_time": None}}))
    assert TokenAuth(TOKEN).login(client, clock).ttl == math.inf
    stub.script(LOOKUP, Reply(body={"data": {"ttl": 0, "expire_time": "2026-01-01T00:00:00Z"}}))
    assert TokenAuth(TOKEN).login(client, clock).ttl == 0
    for expiry in (None, "2026-01-01T00:00:00Z"):
        stub.script(LOOKUP, Reply(body={"data": {"ttl": -2, "expire_time": expiry}}))
        assert TokenAuth(TOKEN).login(client, clock).ttl == 0
    stub.script(LOOKUP, Reply(body={"data": {"ttl": 9, "type": "batch", "renewable": True}}))
    assert not TokenAuth(TOKEN).login(client, clock).renewable


def test_a_given_token_that_is_dead(stub: StubVault, client: VaultClient, clock: FakeClock) -> None:
    stub.script(LOOKUP, DENIED)
    with pytest.raises(AccessDenied, match="expired or revoked"):
        TokenAuth(TOKEN).login(client, clock)


def test_where_a_token_is_looked_for(
    stub: StubVault,
    client: VaultClient,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"neither VAULT_TOKEN nor.*\.vault-token"):
        TokenAuth().login(client, clock)
    (tmp_path / ".vault-token").write_text("from-home\n")
    TokenAuth().login(client, clock)
    monkeypatch.setenv("BAO_TOKEN", "from-bao")
    TokenAuth().login(client, clock)
    monkeypatch.setenv("VAULT_TOKEN", "from-vault")
    auth = TokenAuth()
    auth.login(client, clock)
    (tmp_path / "sink").write_text("from-file\n")
    TokenAuth(path=tmp_path / "sink").login(client, clock)
    TokenAuth("given").login(client, clock)
    assert [r.token for r in stub.requests] == [
        "from-home", "from-bao", "from-vault", "from-file", "given",
    ]  # fmt: skip
