"""Google Secret Manager and Azure Key Vault: what is asked, and what each reply becomes."""

from __future__ import annotations

import contextlib
import math
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cloud_secrets import (
    AzureKeyVault,
    CloudSecrets,
    GoogleSecretManager,
    azure_error,
    google_error,
)
from ephemeral_creds import (
    AccessDenied,
    AzureKeyVaultProvider,
    ConfigurationError,
    EphemeralCredsError,
    GoogleSecretManagerProvider,
    Grant,
    MalformedResponse,
    ProviderUnavailable,
    RefreshPolicy,
    provider_from_url,
)
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.lifecycle.actions import Fetch
from ephemeral_creds.lifecycle.machine import Lifecycle
from ephemeral_creds.lifecycle.signals import Granted, Start, Tick
from ephemeral_creds.providers.secrets.crc32c import crc32c
from ephemeral_creds.testing import FakeClock
from rest_stub import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from certificates import Authority

    Make = Callable[..., Any]

# Of a TLS server and one without, for each.
pytestmark = pytest.mark.slow


@pytest.fixture
def environment(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)


@pytest.fixture
def google(
    authority: Authority, environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GoogleSecretManager]:
    issued = authority.issue("localhost", server=True, ip="127.0.0.1")
    with GoogleSecretManager(issued) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.metadata.host)
        yield server


@pytest.fixture
def azure(
    authority: Authority, environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureKeyVault]:
    issued = authority.issue("localhost", server=True, ip="127.0.0.1")
    with AzureKeyVault(issued) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.metadata.address}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "the-identity-header")
        yield server


@pytest.fixture
def make() -> Iterator[Make]:
    """Make providers of the secret of a server."""
    with contextlib.ExitStack() as stack:

        def make(server: CloudSecrets, **arguments: Any) -> Any:
            if isinstance(server, GoogleSecretManager):
                settings = {"name": "my-app", "project": "my-project"} | arguments
                settings.setdefault("endpoint", server.service.address)
                made: Any = GoogleSecretManagerProvider(**settings)
            else:
                settings = {"vault": server.service.address, "name": "my-app"} | arguments
                made = AzureKeyVaultProvider(**settings)
            return stack.enter_context(contextlib.closing(made))

        yield make


@pytest.fixture(params=["google", "azure"])
def server(request: pytest.FixtureRequest) -> CloudSecrets:
    found: CloudSecrets = request.getfixturevalue(request.param)
    return found


def login(number: int, user: str = "app") -> dict[str, object]:
    return {"username": user, "password": f"cloud-password-{number}"}


def password(grant: Grant) -> str:
    return grant.credentials.password.reveal()


# --- what is read -------------------------------------------------------------------------------


def test_the_latest_version_is_read(server: CloudSecrets, make: Make) -> None:
    server.put(login(1))
    reader = make(server)
    grant = reader.fetch()
    assert (grant.credentials.username, password(grant)) == ("app", "cloud-password-1")
    assert (grant.lease.duration, grant.lease.ask_again_in) == (math.inf, 60.0)
    assert (grant.lease.rotates_in, grant.lease.announced_duration) == (math.inf, math.inf)
    server.put(login(2))
    assert password(reader.fetch()) == "cloud-password-2"
    assert reader.requests_sent == 2


def test_a_version_may_be_pinned(server: CloudSecrets, make: Make) -> None:
    server.put(login(1))
    server.put(login(2))
    version = "1" if isinstance(server, GoogleSecretManager) else f"{1:032x}"
    reader = make(server, version=version)
    grant = reader.fetch()
    assert (password(grant), grant.origin) == ("cloud-password-1", version)
    assert f"version {version}" in reader.description


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ("cloud-password-1\n", {"username": "app"}),
        ({"u": "app", "p": "cloud-password-1"}, {"fields": {"username": "u", "password": "p"}}),
    ],
)
def test_other_shapes(
    server: CloudSecrets, make: Make, value: object, arguments: dict[str, object]
) -> None:
    server.put(value)
    assert password(make(server, **arguments).fetch()) == "cloud-password-1"


def test_googles_requests(google: GoogleSecretManager, make: Make) -> None:
    google.put(login(1))
    make(google, quota_project="billed", location="europe-west3").fetch()
    (asked,) = google.service.requests
    path = "projects/my-project/locations/europe-west3/secrets/my-app/versions/latest"
    assert asked.what == f"GET /v1/{path}:access"
    assert asked.headers["x-goog-user-project"] == "billed"
    (token,) = google.metadata.requests
    assert "/service-accounts/default/token?scopes=" in token.what


def test_googles_addresses(environment: None, make: Make, google: GoogleSecretManager) -> None:
    name = "projects/my-project/locations/europe-west3/secrets/my-app/versions/7"
    reader = make(google, name=name, project=None, endpoint=None)
    assert reader._address == "https://secretmanager.europe-west3.rep.googleapis.com"
    assert "europe-west3/secrets/my-app version 7 in Google" in reader.description
    assert make(google, endpoint=None)._address == "https://secretmanager.googleapis.com"


class _Credentials:
    """What google.auth and azure.identity give."""

    token: str | None = None
    expiry = None
    quota_project_id = "of-the-credentials"

    def __init__(self, token: str) -> None:
        self._token = token
        self.asked: list[str] = []

    def refresh(self, request: object) -> None:
        self.token = self._token

    def get_token(self, *scopes: str) -> tuple[str, int]:
        self.asked += scopes
        return self._token, 4102444800


def test_credentials_of_google_auth(google: GoogleSecretManager, make: Make) -> None:
    pytest.importorskip("google.auth")
    google.put(login(1))
    make(google, credentials=_Credentials(google.token)).fetch()
    assert google.metadata.requests == []
    assert google.service.requests[0].headers["x-goog-user-project"] == "of-the-credentials"


def test_a_credential_of_azure_identity(azure: AzureKeyVault, make: Make) -> None:
    azure.put(login(1))
    credential = _Credentials(azure.token)
    make(azure, credential=credential).fetch()
    assert azure.metadata.requests == []
    assert credential.asked == ["https://vault.azure.net/.default"]


def test_default_credentials_in_a_url(environment: None) -> None:
    pytest.importorskip("azure.identity")
    url = "azure-secret://my-vault/my-app?credential=default"
    with contextlib.closing(provider_from_url(url)) as reader:
        assert type(reader._credential).__name__ == "DefaultAzureCredential"  # type: ignore[attr-defined]
        reader._credential.close()  # type: ignore[attr-defined]


def test_default_credentials_of_google_in_a_url(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("google.auth")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    text = "credentials=default in the URL google-secret://.* google.auth finds nothing .* gcloud"
    with pytest.raises(ConfigurationError, match=text):
        provider_from_url("google-secret://my-app?project=p&credentials=default")


def test_no_sdk_is_imported() -> None:
    names = "SecretsManagerProvider, GoogleSecretManagerProvider, AzureKeyVaultProvider"
    code = (
        f"import sys; from ephemeral_creds import {names}; "
        "GoogleSecretManagerProvider('a', project='p'); AzureKeyVaultProvider('abc', 'a'); "
        "assert not {'botocore', 'google.auth', 'azure', 'hvac'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_azures_addresses(make: Make, azure: AzureKeyVault) -> None:
    for vault, address, resource in (
        ("my-vault", "https://my-vault.vault.azure.net", "https://vault.azure.net"),
        ("https://v.vault.azure.cn/", "https://v.vault.azure.cn", "https://vault.azure.cn"),
        ("v-1.vault.usgovcloudapi.net", "https://v-1.vault.usgovcloudapi.net",
         "https://vault.usgovcloudapi.net"),
    ):  # fmt: skip
        reader = make(azure, vault=vault)
        assert (reader._address, reader._resource) == (address, resource)


def test_by_url(google: GoogleSecretManager, azure: AzureKeyVault) -> None:
    more = f"&endpoint={google.service.address}"
    for url, server in (
        (f"google-secret://my-app?project=my-project&poll_interval=20{more}", google),
        (f"google-secret://{google.RESOURCE}/versions/1?poll_interval=20{more}", google),
        ("azure-secret://my-vault/my-app?poll_interval=20&username_field=user", None),
    ):
        with contextlib.closing(provider_from_url(url)) as reader:
            if server is not None:
                server.put(login(1))
                assert reader.fetch().lease.ask_again_in == 20.0
            else:
                assert reader.description == (
                    "secret 'my-app' in Key Vault https://my-vault.vault.azure.net"
                )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("google-secret://my-app", "the project is not known: set project= or GOOGLE_CLOUD"),
        ("google-secret://a/b?project=p", "'a/b' cannot be the name of a secret"),
        ("google-secret://projects/p/secrets/s?project=other", "'other' is not that of projects"),
        ("google-secret://my-app?project=p&version=a%2Fb", "cannot be the version"),
        ("azure-secret://my-vault", "azure-secret://VAULT/NAME"),
        ("azure-secret://my_vault/my-app", "cannot be the name of a vault"),
        ("azure-secret://my-vault/my_app", "cannot be the name of a secret in Key Vault"),
        ("azure-secret://my-vault/my-app?poll_interval=0", "poll_interval=0"),
    ],
)
def test_urls_that_cannot_be_right(environment: None, url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        provider_from_url(url)


def test_a_secret_does_not_go_through_plain_http(make: Make, google: GoogleSecretManager) -> None:
    with pytest.raises(ConfigurationError, match="must begin with https://"):
        make(google, endpoint="http://secretmanager.example.com")


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "error", "text"),
    [
        (google_error(403, "PERMISSION_DENIED", "Permission denied"), AccessDenied,
         "grant roles/secretmanager.secretAccessor on the secret"),
        (google_error(403, "PERMISSION_DENIED", "disabled", "SERVICE_DISABLED"), ConfigurationError,
         "gcloud services enable secretmanager.googleapis.com --project=my-project"),
        (google_error(403, "PERMISSION_DENIED", "no", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
         AccessDenied, "lacks the scope https://www.googleapis.com/auth/cloud-platform"),
        (google_error(403, "PERMISSION_DENIED", "no", "USER_PROJECT_DENIED"), AccessDenied,
         "serviceUsageConsumer on the quota project"),
        (google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), ProviderUnavailable, "Quota"),
        (google_error(503, "UNAVAILABLE", "try again"), ProviderUnavailable, "try again"),
        (google_error(400, "INVALID_ARGUMENT", "bad"), ConfigurationError, "check the names"),
        (Answer(502, "<html>"), ProviderUnavailable, "HTTP 502"),
        (Answer(200, "<html>"), MalformedResponse, "any proxy in between"),
        (Answer(200, {"name": "x/versions/1", "payload": {"data": "!"}}), MalformedResponse,
         "not base64"),
        (Answer(200, {"payload": {"data": "eA=="}}), MalformedResponse, "no version or no text"),
        (Answer(200, {"name": "x/versions/1", "payload": {"data": "//8="}}), ConfigurationError,
         "is binary"),
    ],
)  # fmt: skip
def test_each_refusal_of_google_says_what_to_do(
    google: GoogleSecretManager,
    make: Make,
    failure: Answer,
    error: type[EphemeralCredsError],
    text: str,
) -> None:
    google.failures.append(failure)
    with pytest.raises(error, match=text) as caught:
        make(google).fetch()
    assert google.RESOURCE in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("DISABLED", "gcloud secrets versions enable 1 --secret=my-app --project=my-project"),
        ("DESTROYED", "is in DESTROYED state.; write a new version"),
    ],
)
def test_a_version_of_google_that_is_not_enabled(
    google: GoogleSecretManager, make: Make, state: str, text: str
) -> None:
    google.put(login(1), state=state)
    with pytest.raises(ConfigurationError, match=text):
        make(google).fetch()


def test_a_payload_that_was_damaged(google: GoogleSecretManager, make: Make) -> None:
    google.put(login(1), crc="1")
    with pytest.raises(MalformedResponse, match="another checksum than it says"):
        make(google).fetch()


def test_the_checksum() -> None:
    # The check value of CRC-32C, and RFC 3720's of 32 zero bytes.
    assert (crc32c(b"123456789"), crc32c(bytes(32))) == (0xE3069283, 0x8A9136AA)


@pytest.mark.parametrize(
    ("failure", "error", "text"),
    [
        (azure_error(403, "Forbidden", "no", "ForbiddenByRbac"), AccessDenied,
         "assign the role Key Vault Secrets User"),
        (azure_error(403, "Forbidden", "no", "ForbiddenByFirewall"), AccessDenied,
         "allow this network in the vault's firewall"),
        (azure_error(401, "Unauthorized", "AKV10032: Invalid issuer"), AccessDenied,
         "of the vault's tenant"),
        (azure_error(404, "SecretNotFound", "was not found"), ConfigurationError,
         "az keyvault secret recover --vault-name 127 --name my-app"),
        (azure_error(400, "BadParameter", "no"), ConfigurationError, "check the names of vault"),
        (azure_error(500, "InternalServerError", "oops"), ProviderUnavailable, "oops"),
        (Answer(502, "<html>"), ProviderUnavailable, "HTTP 502"),
        (Answer(404, "<html>"), MalformedResponse, "any proxy in between"),
        (Answer(200, {"value": "x"}), MalformedResponse, "no version or no text"),
    ],
)  # fmt: skip
def test_each_refusal_of_azure_says_what_to_do(
    azure: AzureKeyVault,
    make: Make,
    failure: Answer,
    error: type[EphemeralCredsError],
    text: str,
) -> None:
    azure.failures.append(failure)
    with pytest.raises(error, match=text) as caught:
        make(azure).fetch()
    assert azure.service.address in str(caught.value)
    assert caught.value.__context__ is None


def test_a_secret_of_azure_that_is_disabled(azure: AzureKeyVault, make: Make) -> None:
    azure.put(login(1), state="DISABLED")
    text = "SecretDisabled: .* set-attributes --vault-name 127 --name my-app --enabled true"
    with pytest.raises(ConfigurationError, match=text):
        make(azure).fetch()


def test_azures_throttling_says_when_to_ask_again(azure: AzureKeyVault, make: Make) -> None:
    error = azure_error(429, "Throttled", "slow down")
    azure.failures.append(error._replace(headers={"Retry-After": "17"}))
    with pytest.raises(ProviderUnavailable, match="slow down") as caught:
        make(azure).fetch()
    assert (caught.value.status, caught.value.retry_after) == (429, 17.0)


def test_azures_dates(azure: AzureKeyVault, make: Make) -> None:
    azure.put(login(1), exp=int(time.time()) + 3600, nbf=int(time.time()) - 10)
    reader = make(azure)
    lease = reader.fetch().lease
    assert 3500 < lease.announced_duration <= 3600
    assert lease.rotates_in == lease.announced_duration
    assert not lease.is_token
    azure.put(login(2), exp=int(time.time()) - 10)
    assert reader.fetch().lease.announced_duration == math.inf
    azure.put(login(3), nbf=int(time.time()) + 3600)
    with pytest.raises(ProviderUnavailable, match=r"must not be used for another 3[56]\d\d s"):
        reader.fetch()


def test_a_token_that_is_not_valid(server: CloudSecrets, make: Make) -> None:
    server.put(login(1))
    reader, valid = make(server), server.token
    server.service.answer = lambda _: server.unauthorized()
    with pytest.raises(AccessDenied):
        reader.fetch()
    assert valid not in repr(vars(reader))


def test_no_token(server: CloudSecrets, make: Make) -> None:
    server.metadata.answer = lambda _: Answer(404, "no")
    with pytest.raises(ConfigurationError, match="cannot be read: the metadata server at"):
        make(server).fetch()
    assert server.service.requests == []


def test_a_certificate_that_cannot_be_trusted(
    server: CloudSecrets, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    server.put(login(1))
    reader, events = make(server), list[ProviderRequest]()
    reader.observe(events.append)
    with pytest.raises(ConfigurationError, match="set REQUESTS_CA_BUNDLE to the CA that issued"):
        reader.fetch()
    # Refused by this side: nothing was sent.
    assert [(each.operation, each.outcome, each.status) for each in events] == [
        ("login", "done", 200), ("read", "failed", None),
    ]  # fmt: skip


def test_a_secret_without_credentials(server: CloudSecrets, make: Make) -> None:
    server.put({"username": "app"})
    with pytest.raises(ConfigurationError, match=r"my-app.*: PASSWORD is missing: correct the"):
        make(server).fetch()


def test_an_hour_costs_so_many_requests(server: CloudSecrets, make: Make) -> None:
    """One a minute, by the lifecycle's own timers, and one for a token; with jitter 67."""
    server.put(login(1))
    clock = FakeClock()
    reader, asked = make(server, clock=clock), []
    for draw in (0.0, 1.0):
        server.service.requests.clear()
        server.metadata.requests.clear()
        machine = Lifecycle(RefreshPolicy(), mints=False, draw=lambda: draw)  # noqa: B023
        machine.join(1)
        started, actions = clock.now(), machine.handle(Start(), clock.now())
        while clock.now() < started + 3600:
            if Fetch() in actions:
                actions = machine.handle(Granted(reader.fetch()), clock.now())
                continue
            clock.advance(machine.deadline - clock.now())
            actions = machine.handle(Tick(), clock.now())
        asked.append(len(server.service.requests))
        assert len(server.metadata.requests) == asked[-1]
    assert asked == [60, 67]


def test_a_pickle_is_refused(server: CloudSecrets, make: Make) -> None:
    with pytest.raises(TypeError, match="send its settings"):
        pickle.dumps(make(server))
