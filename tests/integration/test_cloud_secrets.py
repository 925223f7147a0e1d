"""Secrets of Google Secret Manager and Azure Key Vault that rotate, and a pool under load."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from secret_rotation import Rotation, change_under_load, pool_for, uses
from source_load import PoolLoad
from twins import wait_until

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
)
from ephemeral_creds.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from certificates import Authority
    from ephemeral_creds.testing import PostgresServer

    Unique = Callable[[str], str]

pytestmark = pytest.mark.slow


@pytest.fixture(params=[GoogleSecretManager, AzureKeyVault])
def server(
    request: pytest.FixtureRequest, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudSecrets]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
    with request.param(authority.issue("localhost", server=True, ip="127.0.0.1")) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.metadata.host)
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.metadata.address}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "the-identity-header")
        yield server


@pytest.fixture
def provider(server: CloudSecrets) -> Iterator[CredentialProvider]:
    made: CredentialProvider
    if isinstance(server, GoogleSecretManager):
        made = GoogleSecretManagerProvider(
            server.RESOURCE, endpoint=server.service.address, poll_interval=0.2
        )
    else:
        made = AzureKeyVaultProvider(server.service.address, "my-app", poll_interval=0.2)
    with contextlib.closing(made):
        yield made


def test_changes_under_load_fail_no_query(
    server: CloudSecrets, provider: CredentialProvider, postgres: PostgresServer, unique: Unique
) -> None:
    rotation = Rotation(postgres, (unique("cloud_app"),))
    server.put(rotation.values)
    with pool_for(provider, rotation.conninfo) as (keeper, pool):
        change_under_load(keeper, pool, rotation, server.put, lambda: unique("cloud_app"))


def test_an_outage_costs_nothing(
    server: CloudSecrets, provider: CredentialProvider, postgres: PostgresServer, unique: Unique
) -> None:
    """Neither of the service nor, after it, of the server of tokens."""
    rotation = Rotation(postgres, (unique("cloud_app"),))
    server.put(rotation.values)
    with pool_for(provider, rotation.conninfo, min_size=1, max_size=4) as (keeper, pool):
        pool.wait()
        server.down = True
        wait_until(lambda: keeper.status().last_error, "a failed read")
        with PoolLoad(pool) as load:
            load.goes_on(100)
        server.down, server.token = False, "another-access-token"
        rotation.take_turn()
        rotation.set_secret()
        server.put(rotation.values)
        uses(keeper, rotation.values)
    assert load.failures == []


def test_check_takes_each_step(
    server: CloudSecrets,
    postgres: PostgresServer,
    unique: Unique,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rotation = Rotation(postgres, (unique("cloud_app"),))
    server.put(rotation.values)
    if isinstance(server, GoogleSecretManager):
        url = f"google-secret://{server.RESOURCE}?endpoint={server.service.address}"
        denied = google_error(403, "PERMISSION_DENIED", "Permission denied")
        right = "roles/secretmanager.secretAccessor"
    else:
        url = f"azure-secret://{quote(server.service.address, safe='')}/my-app"
        denied = azure_error(403, "Forbidden", "no", "ForbiddenByRbac")
        right = "Key Vault Secrets User"
    asked = ["check", url, "--json", "--conninfo", rotation.conninfo]
    main(asked)
    found = json.loads(capsys.readouterr().out)
    levels = {each["step"]: each["level"] for each in found["findings"]}
    assert found["complete"]
    assert levels["credentials"] == levels["connect"] == "ok"
    server.failures.append(denied)
    main(asked)
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "fail"
    assert right in found["findings"][-1]["text"]
