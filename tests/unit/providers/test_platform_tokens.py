"""Tokens of Microsoft Entra and of Google Cloud: requests, replies and errors."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import (
    AccessDenied,
    AlloyDBIAMProvider,
    CloudSQLIAMProvider,
    ConfigurationError,
    EntraProvider,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
    Secret,
    TokenProvider,
)
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.providers.access import claims_of
from ephemeral_creds.providers.url import provider_from_url
from platforms import ACCOUNT, CLIENT, IDENTITY, RESOURCE, TENANT, Platform, machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from certificates import Authority
    from ephemeral_creds import CredentialProvider, Event

ROLE = ACCOUNT.removesuffix(".gserviceaccount.com")


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with machine(monkeypatch) as made:
        yield made


class TestManagedIdentity:
    def test_a_machine(self, platform: Platform) -> None:
        grant = EntraProvider().fetch()
        assert grant.credentials.username == IDENTITY
        assert platform.verify_entra(IDENTITY, grant.credentials.password.reveal()) == ""
        lease = grant.lease
        assert (lease.duration, lease.rotates_in, lease.is_token) == (math.inf, math.inf, True)
        assert 3590 <= lease.announced_duration <= 3600
        assert platform.asked == [
            (
                "GET /metadata/identity/oauth2/token?api-version=2018-02-01"
                "&resource=https%3A%2F%2Fossrdbms-aad.database.windows.net"
            )
        ]

    def test_an_app_service(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{platform.address}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", platform.header)
        grant = EntraProvider("app_user", client_id=CLIENT).fetch()
        assert grant.credentials.username == "app_user"
        assert platform.asked == [
            (
                "GET /msi/token?api-version=2019-08-01"
                f"&resource=https%3A%2F%2Fossrdbms-aad.database.windows.net&client_id={CLIENT}"
            )
        ]

    def test_no_such_identity(self, platform: Platform) -> None:
        provider = EntraProvider(client_id="another")
        with pytest.raises(ConfigurationError, match="HTTP 400: check that the machine has such"):
            provider.fetch()

    @pytest.mark.parametrize(
        ("claims", "username"),
        [
            ({"upn": "ada@example.com"}, "ada@example.com"),
            ({"preferred_username": "ada@example.com"}, "ada@example.com"),
            ({"upn": None, "unique_name": "ada"}, "ada"),
        ],
    )
    def test_the_role_is_named_by_the_token(
        self, platform: Platform, claims: dict[str, object], username: str
    ) -> None:
        platform.claims = claims
        assert EntraProvider().fetch().credentials.username == username

    def test_a_token_without_a_name(self, platform: Platform) -> None:
        platform.claims = {"appid": CLIENT, "xms_mirid": "/subscriptions/s/virtualMachines/vm"}
        with pytest.raises(ConfigurationError, match=r"no name to log in as.*username="):
            EntraProvider().fetch()
        assert EntraProvider("my-app").fetch().credentials.username == "my-app"

    @pytest.mark.parametrize(
        ("status", "body", "error", "said"),
        [
            (429, {}, ProviderUnavailable, "HTTP 429"),
            (200, {"token": "x"}, MalformedResponse, "gave no access_token"),
            (200, {"access_token": "x.y.z"}, MalformedResponse, "without its end"),
            (200, {"access_token": "x.y.z", "expires_on": "1"}, ProviderUnavailable, "had expired"),
        ],
    )
    def test_other_replies(
        self,
        platform: Platform,
        status: int,
        body: dict[str, object],
        error: type[Exception],
        said: str,
    ) -> None:
        platform.refuse = status, body
        with pytest.raises(error, match=said):
            EntraProvider("app_user").fetch()


class TestWorkloadIdentity:
    @pytest.fixture
    def entra(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: Any
    ) -> Iterator[Platform]:
        with Platform(authority.issue("localhost", server=True, ip="127.0.0.1")) as made:
            path = tmp_path / "token"
            canary.allow_secret_file(path)
            for name, value in made.workload_identity(path).items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
            yield made

    def test_a_pod(self, entra: Platform) -> None:
        grant = EntraProvider().fetch()
        assert entra.verify_entra(IDENTITY, grant.credentials.password.reveal()) == ""
        assert 3590 <= grant.lease.announced_duration <= 3600
        assert entra.asked == [f"POST /{TENANT}/oauth2/v2.0/token"]

    def test_its_event(self, entra: Platform) -> None:
        (done,) = requests_of(EntraProvider("app"))
        assert (done.operation, done.outcome, done.address) == ("login", "done", entra.address)
        entra.federated = "another"
        (refused,) = requests_of(EntraProvider("app"))
        assert (refused.outcome, refused.status) == ("refused", 401)
        assert "AADSTS70021" in refused.error

    def test_a_federated_credential_that_does_not_match(self, entra: Platform) -> None:
        entra.federated = "another"
        said = r"HTTP 401: invalid_client \(AADSTS70021\).*system:serviceaccount:NAMESPACE:NAME"
        with pytest.raises(AccessDenied, match=said):
            EntraProvider().fetch()

    def test_entra_is_overloaded(self, entra: Platform) -> None:
        entra.refuse = 503, {}
        with pytest.raises(ProviderUnavailable, match="HTTP 503"):
            EntraProvider().fetch()

    def test_a_pod_without_a_label(
        self, entra: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("AZURE_TENANT_ID")
        with pytest.raises(ConfigurationError, match="label the pod"):
            EntraProvider().fetch()
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "nothing"))
        with pytest.raises(ConfigurationError, match="nothing should hold the pod's token"):
            EntraProvider().fetch()
        assert entra.asked == []

    def test_entra_is_not_trusted(self, entra: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(ConfigurationError, match="certificate that cannot be trusted"):
            EntraProvider().fetch()


class TestCredentialObjects:
    def test_one_of_azure_identity(self, platform: Platform) -> None:
        identity = pytest.importorskip("azure.identity")
        core = pytest.importorskip("azure.core.credentials")
        asked: list[tuple[str, ...]] = []

        class Credential:
            error: Exception | None = None

            def get_token(self, *scopes: str, **_: object) -> Any:
                asked.append(scopes)
                if self.error is not None:
                    raise self.error
                return core.AccessToken(platform.token().reveal(), int(time.time() + 3600))

        credential = Credential()
        provider = EntraProvider(credential=credential)
        assert provider.description == "tokens from Microsoft Entra, by Credential"
        grant = provider.fetch()
        assert grant.credentials.username == IDENTITY
        assert grant.lease.announced_duration > 3590
        assert asked == [(f"{RESOURCE}/.default",)]
        credential.error = identity.CredentialUnavailableError("none of them")
        with pytest.raises(ConfigurationError, match=r"azure\.identity found nothing"):
            provider.fetch()
        exceptions = pytest.importorskip("azure.core.exceptions")
        credential.error = exceptions.ClientAuthenticationError("AADSTS700016: no application")
        with pytest.raises(AccessDenied, match=r"Entra refuses .* \(AADSTS700016\)"):
            provider.fetch()

    def test_one_for_asyncio(self) -> None:
        class Credential:
            async def get_token(self, *scopes: str) -> str:
                return "never"

        with pytest.raises(ConfigurationError, match="one for asyncio"):
            EntraProvider(credential=Credential()).fetch()

    def test_one_of_google_auth(self, platform: Platform) -> None:
        pytest.importorskip("google.auth")

        class Credentials:
            token: Any = None
            expiry: Any = None

            def refresh(self, request: Any) -> None:
                self.token = platform.google_token(CloudSQLIAMProvider.SCOPE)
                # As google.auth has it: UTC without saying so.
                self.expiry = (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None)

        with pytest.raises(ConfigurationError, match="must name the role"):
            CloudSQLIAMProvider(credentials=Credentials())
        grant = CloudSQLIAMProvider(ACCOUNT, credentials=Credentials()).fetch()
        token = grant.credentials.password.reveal()
        assert platform.verify_google(CloudSQLIAMProvider.SCOPE, ROLE, token) == ""
        assert 3590 <= grant.lease.announced_duration <= 3600

    def test_google_auth_refuses(self) -> None:
        exceptions = pytest.importorskip("google.auth.exceptions")

        class Credentials:
            token = expiry = None

            def refresh(self, request: Any) -> None:
                raise exceptions.RefreshError("invalid_grant", {"error": "invalid_grant"})

        provider = CloudSQLIAMProvider("ada@example.com", credentials=Credentials())
        with pytest.raises(AccessDenied, match="gcloud auth application-default login"):
            provider.fetch()


def requests_of(provider: CredentialProvider) -> list[ProviderRequest]:
    """Fetch, whatever comes of it, and return the events of its requests."""
    events: list[Event] = []
    provider.observe(events.append)
    with suppress(EphemeralCredsError):
        provider.fetch()
    return [each for each in events if isinstance(each, ProviderRequest)]


class TestEvents:
    def test_googles_metadata(self, platform: Platform) -> None:
        email, token = requests_of(CloudSQLIAMProvider())
        assert (email.operation, email.outcome, email.status) == ("describe", "done", 200)
        assert (token.operation, token.outcome, token.status) == ("login", "done", 200)
        assert (email.role, token.role) == ("", ROLE)
        assert email.address == token.address == platform.address

    def test_an_identity_of_azure(self, platform: Platform) -> None:
        (done,) = requests_of(EntraProvider("app"))
        assert (done.operation, done.outcome, done.status, done.error) == ("login", "done", 200, "")
        assert (done.role, done.address) == ("app", platform.address)
        (refused,) = requests_of(EntraProvider(client_id="another"))
        assert (refused.outcome, refused.status) == ("refused", 400)
        assert refused.error.startswith("ConfigurationError: the metadata server at")
        platform.refuse = 200, {"token": "x"}
        (other,) = requests_of(EntraProvider())
        assert (other.outcome, other.status) == ("failed", 200)

    def test_a_platform_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
        (silent,) = requests_of(CloudSQLIAMProvider("app"))
        assert (silent.outcome, silent.status) == ("failed", None)

    def test_a_function_of_the_users_tells_nothing(self) -> None:
        assert requests_of(TokenProvider("app", lambda: "a-token-of-the-users")) == []


class TestGoogleMetadata:
    @pytest.mark.parametrize("kind", [CloudSQLIAMProvider, AlloyDBIAMProvider])
    def test_a_machine(self, platform: Platform, kind: type[CloudSQLIAMProvider]) -> None:
        provider = kind()
        grant = provider.fetch()
        assert grant.credentials.username == ROLE
        token = grant.credentials.password.reveal()
        assert platform.verify_google(kind.SCOPE, ROLE, token) == ""
        assert 3590 <= grant.lease.announced_duration <= 3600
        provider.fetch()
        accounts = "/computeMetadata/v1/instance/service-accounts/default"
        scope = kind.SCOPE.replace(":", "%3A").replace("/", "%2F")
        # The account stays: it is asked for once.
        assert platform.asked == [
            f"GET {accounts}/email",
            *[f"GET {accounts}/token?scopes={scope}"] * 2,
        ]

    def test_a_chosen_account(self, platform: Platform) -> None:
        url = f"cloudsql-iam://my-role?service_account={ACCOUNT}"
        assert provider_from_url(url).fetch().credentials.username == "my-role"
        assert ACCOUNT in platform.asked[0]

    def test_no_such_account(self, platform: Platform) -> None:
        with pytest.raises(ConfigurationError, match="HTTP 404: check that the machine has such"):
            CloudSQLIAMProvider(service_account="another").fetch()


def test_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    with pytest.raises(ProviderUnavailable, match="is this a machine of that cloud"):
        CloudSQLIAMProvider("role").fetch()
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
    with pytest.raises(ProviderUnavailable, match="is this a machine of that cloud"):
        EntraProvider("role").fetch()


class TestURL:
    @pytest.mark.parametrize(
        ("url", "kind", "description"),
        [
            ("entra://", EntraProvider, "tokens from Microsoft Entra, by the platform"),
            (
                f"entra://ada%40example.com?client_id={CLIENT}",
                EntraProvider,
                (
                    "tokens for 'ada@example.com' from Microsoft Entra, by the platform, client "
                    f"{CLIENT}"
                ),
            ),
            (
                f"alloydb-iam://{ACCOUNT.replace('@', '%40')}",
                AlloyDBIAMProvider,
                (
                    f"tokens for '{ROLE}' from Google Cloud, by service account 'default' of the "
                    "platform"
                ),
            ),
        ],
    )
    def test_a_provider(self, url: str, kind: type[object], description: str) -> None:
        provider = provider_from_url(url)
        assert type(provider) is kind
        assert provider.description == description

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("entra://app/x", "the role"),
            ("entra://app?credential=none", "known: platform, default"),
            ("cloudsql-iam://app?scope=x", "there is no such key"),
        ],
    )
    def test_wrong_ones(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            provider_from_url(url)

    def test_the_default_credential_of_azure_identity(self) -> None:
        pytest.importorskip("azure.identity")
        provider = provider_from_url("entra://app?credential=default")
        assert provider.description.endswith("by DefaultAzureCredential")


@pytest.mark.parametrize("text", ["", "opaque", "a.b.c", "a.e30=.c.d", "a.WzFd.c"])
def test_a_token_without_claims(text: str) -> None:
    assert claims_of(Secret(text)) == {}
