"""The contract of providers, held by those of secret managers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import CredentialProvider, SecretsManagerProvider
from ephemeral_creds.testing import ProviderContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aws_secrets import AWSSecrets

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
