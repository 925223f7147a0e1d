"""The contract of providers, held by those of tokens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import (
    AccessDenied,
    CloudSQLIAMProvider,
    ConfigurationError,
    CredentialProvider,
    EntraProvider,
    RDSIAMProvider,
    TokenProvider,
)
from ephemeral_creds.testing import ProviderContract
from platforms import Platform, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ephemeral_creds.providers.access import TokenAnswer

HOST = "mydb.abc123.eu-central-1.rds.amazonaws.com"
SECRET = "-".join(["contract", "aws", "secret", "key"])


class TestTokenProvider(ProviderContract):
    @pytest.fixture
    def tokens(self) -> list[str]:
        return ["the-first-token"]

    @pytest.fixture
    def provider(self, tokens: list[str]) -> CredentialProvider:
        return TokenProvider("app", lambda: (tokens[-1], time.time() + 900))

    @pytest.fixture
    def change(self, tokens: list[str]) -> Callable[[], object]:
        return lambda: tokens.append("the-second-token")

    def _failing(self, error: Exception) -> CredentialProvider:
        def fail() -> TokenAnswer:
            raise error

        return TokenProvider("app", fail)

    @pytest.fixture
    def known_secrets(self) -> Sequence[str]:
        return ["the-secret-of-the-source"]

    @pytest.fixture
    def unavailable(self, known_secrets: Sequence[str]) -> CredentialProvider:
        return self._failing(OSError(known_secrets[0]))

    @pytest.fixture
    def misconfigured(self) -> CredentialProvider:
        return self._failing(ConfigurationError("the vending machine has no such product"))

    @pytest.fixture
    def denied(self) -> CredentialProvider:
        return self._failing(AccessDenied("the vending machine takes no such coins"))


class TestRDS(ProviderContract):
    @pytest.fixture
    def known_secrets(self) -> Sequence[str]:
        return [SECRET]

    @pytest.fixture
    def provider(self, monkeypatch: pytest.MonkeyPatch) -> CredentialProvider:
        pytest.importorskip("botocore")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        return RDSIAMProvider("app", HOST)

    @pytest.fixture
    def change(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
        return lambda: monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")

    @pytest.fixture
    def misconfigured(
        self, provider: CredentialProvider, monkeypatch: pytest.MonkeyPatch
    ) -> CredentialProvider:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_PROFILE", "nothing")
        return provider


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with machine(monkeypatch) as made:
        yield made


class OfPlatform(ProviderContract):
    kind: type[EntraProvider | CloudSQLIAMProvider]

    @pytest.fixture
    def provider(self, platform: Platform) -> CredentialProvider:
        return self.kind("app")

    @pytest.fixture
    def change(self, platform: Platform) -> Callable[[], object]:
        def change() -> None:
            platform.life -= 5.0

        return change

    @pytest.fixture
    def unavailable(self, platform: Platform) -> CredentialProvider:
        platform.refuse = 503, {}
        return self.kind("app")

    @pytest.fixture
    def misconfigured(self, platform: Platform) -> CredentialProvider:
        platform.refuse = 404, {}
        return self.kind("app")


class TestEntra(OfPlatform):
    kind = EntraProvider


class TestCloudSQL(OfPlatform):
    kind = CloudSQLIAMProvider
