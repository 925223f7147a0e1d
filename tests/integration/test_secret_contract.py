"""The contract of providers, held by those of secret managers."""

from __future__ import annotations

import itertools
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
    AzureKeyVaultProvider,
    CredentialProvider,
    GoogleSecretManagerProvider,
    SecretsManagerProvider,
)
from ephemeral_creds.testing import ProviderContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aws_secrets import AWSSecrets
    from certificates import Authority
    from rest_stub import Answer

    Unique = Callable[[str], str]

_numbers = itertools.count(1)


def login() -> dict[str, object]:
    return {"username": "app", "password": f"contract-password-{next(_numbers)}"}


@pytest.fixture(scope="module")
def server() -> Iterator[AWSSecrets]:
    pytest.importorskip("moto", reason="moto, which is Secrets Manager here, is not installed")
    from aws_secrets import AWSSecrets

    with AWSSecrets() as server:
        yield server


@pytest.mark.slow
class TestSecretsManager(ProviderContract):
    @pytest.fixture
    def aws(self, server: AWSSecrets, monkeypatch: pytest.MonkeyPatch) -> AWSSecrets:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "contract-secret-access-key")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.address)
        server.failures.clear()
        return server

    @pytest.fixture
    def known_secrets(self) -> Sequence[str]:
        return ["contract-secret-access-key"]

    @pytest.fixture
    def name(self, unique: Unique) -> str:
        return unique("contract")

    @pytest.fixture
    def provider(self, aws: AWSSecrets, name: str) -> CredentialProvider:
        aws.create(name, login())
        return SecretsManagerProvider(name)

    @pytest.fixture
    def change(self, aws: AWSSecrets, name: str) -> Callable[[], object]:
        return lambda: aws.put(name, login())

    @pytest.fixture
    def unavailable(self, aws: AWSSecrets) -> CredentialProvider:
        return SecretsManagerProvider("app", endpoint="http://127.0.0.1:1")

    @pytest.fixture
    def misconfigured(self, aws: AWSSecrets) -> CredentialProvider:
        return SecretsManagerProvider("nothing")

    @pytest.fixture
    def denied(self, aws: AWSSecrets) -> CredentialProvider:
        aws.fail("GetSecretValue", "AccessDeniedException", "not authorized")
        return SecretsManagerProvider("denied")


class OfACloud(ProviderContract):
    """What is the same for Google and Azure, whose stubs have one secret."""

    kind: type[CloudSecrets]
    refusal: Answer

    @pytest.fixture
    def server(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[CloudSecrets]:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
        monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
        issued = authority.issue("localhost", server=True, ip="127.0.0.1")
        with self.kind(issued) as server:
            monkeypatch.setenv("GCE_METADATA_HOST", server.metadata.host)
            monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.metadata.address}/msi/token")
            monkeypatch.setenv("IDENTITY_HEADER", "the-identity-header")
            server.put(login())
            yield server

    def make(self, server: CloudSecrets, name: str = "my-app") -> CredentialProvider:
        raise NotImplementedError

    @pytest.fixture
    def known_secrets(self, server: CloudSecrets) -> Sequence[str]:
        return [server.token]

    @pytest.fixture
    def provider(self, server: CloudSecrets) -> CredentialProvider:
        return self.make(server)

    @pytest.fixture
    def change(self, server: CloudSecrets) -> Callable[[], object]:
        return lambda: server.put(login())

    @pytest.fixture
    def unavailable(self, server: CloudSecrets) -> CredentialProvider:
        server.down = True
        return self.make(server)

    @pytest.fixture
    def misconfigured(self, server: CloudSecrets) -> CredentialProvider:
        return self.make(server, "nothing")

    @pytest.fixture
    def denied(self, server: CloudSecrets) -> CredentialProvider:
        server.failures.append(self.refusal)
        return self.make(server)


@pytest.mark.slow
class TestGoogleSecretManager(OfACloud):
    kind = GoogleSecretManager
    refusal = google_error(403, "PERMISSION_DENIED", "Permission denied")

    def make(self, server: CloudSecrets, name: str = "my-app") -> CredentialProvider:
        address = server.service.address
        return GoogleSecretManagerProvider(name, project="my-project", endpoint=address)


@pytest.mark.slow
class TestAzureKeyVault(OfACloud):
    kind = AzureKeyVault
    refusal = azure_error(403, "Forbidden", "no", "ForbiddenByRbac")

    def make(self, server: CloudSecrets, name: str = "my-app") -> CredentialProvider:
        return AzureKeyVaultProvider(server.service.address, name)
