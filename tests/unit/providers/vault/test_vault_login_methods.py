"""Requests of logins whose counterpart is not available here: clouds, a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stub_vault import SECRET_ID, Reply, StubVault, errors

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault import (
    AgentAuth,
    AppRoleAuth,
    AzureAuth,
    GCPAuth,
    JWTAuth,
    LDAPAuth,
    UserpassAuth,
)
from ephemeral_creds.providers.vault.http.client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.providers.vault import AuthMethod, VaultConfig
    from ephemeral_creds.testing import FakeClock

# Put together at run time: see stub_vault.
JWT = ".".join(["canary", "json", "web-token"])
GCP = (
    "GET /computeMetadata/v1/instance/service-accounts/default/identity"
    "?audience=http%3A%2F%2Fvault%2Fapp&format=full"
)
AZURE_TOKEN = (
    "GET /metadata/identity/oauth2/token?api-version=2018-02-01"
    "&resource=https%3A%2F%2Fmanagement.azure.com%2F"
)
AZURE_MACHINE = "GET /metadata/instance?api-version=2021-02-01"


@pytest.fixture
def client(config: VaultConfig) -> Iterator[VaultClient]:
    made = VaultClient(config)
    yield made
    made.close()


@pytest.fixture
def metadata() -> Iterator[StubVault]:
    """A metadata server: HTTP is HTTP."""
    with StubVault() as server:
        yield server


def test_google_cloud(
    stub: StubVault, metadata: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    metadata.script(GCP, Reply(body=JWT, kind="text/html"))
    token = GCPAuth("app", metadata=metadata.address).login(client, clock)
    (asked,) = metadata.requests
    assert asked.headers["Metadata-Flavor"] == "Google"
    assert stub.requests[0].what == "POST /v1/auth/gcp/login"
    assert stub.requests[0].body == {"role": "app", "jwt": JWT}
    assert token.revocable


def test_azure(stub: StubVault, metadata: StubVault, client: VaultClient, clock: FakeClock) -> None:
    machine = {"subscriptionId": "sub", "resourceGroupName": "group", "name": "vm-1"}
    for compute in (machine, machine | {"vmScaleSetName": "set"}):
        metadata.script(AZURE_TOKEN, Reply(body={"access_token": JWT, "expires_in": "3599"}))
        metadata.script(AZURE_MACHINE, Reply(body={"compute": compute}))
        AzureAuth("app", metadata=metadata.address, mount="az").login(client, clock)
    assert {asked.headers["Metadata"] for asked in metadata.requests} == {"true"}
    known = {"subscription_id": "sub", "resource_group_name": "group", "role": "app", "jwt": JWT}
    assert [r.what for r in stub.requests] == ["POST /v1/auth/az/login"] * 2
    assert [r.body for r in stub.requests] == [
        known | {"vm_name": "vm-1"},
        known | {"vmss_name": "set"},
    ]


def test_a_chosen_azure_identity(
    metadata: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    auth = AzureAuth("app", client_id="id-1", resource="vault", metadata=metadata.address)
    with pytest.raises(ConfigurationError, match="HTTP 204"):
        auth.login(client, clock)
    assert metadata.requests[0].what.endswith("&resource=vault&client_id=id-1")


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (Reply(404, body="no"), ConfigurationError, "HTTP 404: check that the machine has such"),
        (Reply(500, body="no"), ProviderUnavailable, "HTTP 500"),
        (Reply(429, body="no"), ProviderUnavailable, "HTTP 429"),
        (Reply(200, body=""), ProviderUnavailable, "without a token"),
        (Reply(302, headers={"Location": "http://x"}), ConfigurationError, "HTTP 302"),
    ],
)
def test_a_metadata_server_that_does_not_help(
    metadata: StubVault,
    client: VaultClient,
    clock: FakeClock,
    reply: Reply,
    error: type[Exception],
    text: str,
) -> None:
    metadata.script(GCP, reply)
    with pytest.raises(error, match=text) as caught:
        GCPAuth("app", metadata=metadata.address).login(client, clock)
    assert metadata.address in str(caught.value)


def test_no_metadata_server_at_all(client: VaultClient, clock: FakeClock) -> None:
    with pytest.raises(ProviderUnavailable, match="is this a machine of that cloud") as caught:
        GCPAuth("app", metadata="http://127.0.0.1:1").login(client, clock)
    assert caught.value.__context__ is None


def test_azure_without_a_token(metadata: StubVault, client: VaultClient, clock: FakeClock) -> None:
    metadata.script(AZURE_TOKEN, Reply(body={"error": "invalid_request"}))
    metadata.script(AZURE_MACHINE, Reply(body=[]))
    with pytest.raises(MalformedResponse, match="no access_token"):
        AzureAuth("app", metadata=metadata.address).login(client, clock)


def test_ldap_encodes_the_user(stub: StubVault, client: VaultClient, clock: FakeClock) -> None:
    what = "POST /v1/auth/corp/login/me%40example.com"
    stub.script(what, Reply(body={"auth": stub.auth("hvs-ldap-token")}))
    auth = LDAPAuth("me@example.com", SECRET_ID, mount="corp")
    assert auth.login(client, clock).value.reveal() == "hvs-ldap-token"
    assert (stub.requests[0].what, stub.requests[0].body) == (what, {"password": SECRET_ID})
    assert SECRET_ID not in repr(auth)


def test_a_refused_password_names_user_and_mount(
    stub: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    stub.script("POST /v1/auth/ldap/login/me", errors(400, f"ldap operation failed: {SECRET_ID}"))
    with pytest.raises(AccessDenied, match=r"user 'me' at auth/ldap.*check the mount") as caught:
        LDAPAuth("me", SECRET_ID).login(client, clock)
    assert SECRET_ID not in str(caught.value)


def test_a_jwt_function_that_fails_is_named_by_its_error_only(
    stub: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    def fails() -> str:
        raise LookupError(f"no {SECRET_ID}")

    with pytest.raises(ConfigurationError, match="failed with LookupError") as caught:
        JWTAuth("app", fails).login(client, clock)
    assert SECRET_ID not in str(caught.value)
    assert caught.value.__context__ is None
    with pytest.raises(ConfigurationError, match="returned no token"):
        JWTAuth("app", lambda: "").login(client, clock)
    with pytest.raises(ProviderUnavailable, match="not now"):
        JWTAuth("app", unavailable).login(client, clock)
    assert stub.requests == []


def unavailable() -> str:
    raise ProviderUnavailable("not now")


@pytest.mark.parametrize(
    "make",
    [
        lambda: JWTAuth("app"),
        lambda: JWTAuth("app", "jwt", path="/jwt"),
        lambda: UserpassAuth("me"),
        lambda: LDAPAuth("me", "password", password_file="/password"),
        lambda: UserpassAuth("", "password"),
        lambda: AppRoleAuth("role", wrapped=True),
    ],
)
def test_an_impossible_argument_is_refused(make: Callable[[], AuthMethod]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize(
    "auth",
    [
        JWTAuth("app", JWT),
        JWTAuth("app", lambda: JWT),
        UserpassAuth("me", Secret(SECRET_ID)),
        AppRoleAuth("role", SECRET_ID, wrapped=True),
    ],
)
def test_r27_no_secret_in_a_repr(auth: AuthMethod) -> None:
    assert JWT not in repr(auth)
    assert SECRET_ID not in repr(auth)


def test_a_cloud_token_is_masked_in_vaults_message(
    stub: StubVault, metadata: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    metadata.script(GCP, Reply(body=JWT, kind="text/html"))
    stub.script("POST /v1/auth/gcp/login", errors(400, f"bad token {JWT}"))
    with pytest.raises(AccessDenied, match=r"bad token \*+; check the mount") as caught:
        GCPAuth("app", metadata=metadata.address).login(client, clock)
    assert JWT not in str(caught.value)


def test_without_an_agent_no_token_is_added(
    stub: StubVault, client: VaultClient, clock: FakeClock
) -> None:
    stub.script("GET /v1/auth/token/lookup-self", errors(403, "permission denied"))
    with pytest.raises(AccessDenied, match="no token was sent and none was added on the way"):
        AgentAuth().login(client, clock)


@pytest.mark.parametrize(
    "body", [{"data": None, "auth": {"client_token": "x"}}, {"data": {"password": "x"}}]
)
def test_a_wrapping_token_for_something_else(
    stub: StubVault, client: VaultClient, clock: FakeClock, body: object
) -> None:
    for method in ("PUT", "POST"):
        stub.script(f"{method} /v1/sys/wrapping/unwrap", Reply(body=body))
    with pytest.raises(
        MalformedResponse, match="something else was wrapped; wrap a secret id with vault write"
    ):
        AppRoleAuth("r", "hvs-wrapping", wrapped=True).login(client, clock)
