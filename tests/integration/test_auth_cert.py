"""Logins by client certificate, against a real Vault that speaks TLS."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from certificates import Authority
from ephemeral_creds import (
    AccessDenied,
    CertAuth,
    ConfigurationError,
    VaultConfig,
    VaultDynamicProvider,
    provider_from_url,
)
from ephemeral_creds.testing import DatabaseEngine, VaultServer, find_vault
from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def engine(
    authority: Authority,
    tls_port: int,
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DatabaseEngine]:
    """A real Vault with a TLS listener besides the usual one."""
    if (binary := find_vault()) is None:
        pytest.skip("no vault, bao or go here: the emulator speaks no TLS")
    certificate = authority.issue("localhost", server=True, ip="127.0.0.1")
    listeners = f"""
    listener "tcp" {{
      address       = "127.0.0.1:{tls_port}"
      tls_cert_file = "{certificate.cert}"
      tls_key_file  = "{certificate.key}"
    }}
    """
    with VaultServer(binary, config=listeners) as server:
        made = DatabaseEngine(server, postgres)
        made.create_role("app")
        made.policy("app")
        yield made


@pytest.fixture(autouse=True)
def trusted(engine: DatabaseEngine, authority: Authority) -> None:
    admin = engine.admin
    admin.enable_auth("cert")
    body = {"certificate": authority.pem, "token_policies": ["use-app"]}
    admin.call("POST", "auth/cert/certs/web", body)


def test_a_certificate_by_url(authority: Authority, tls_port: int, canary: Canary) -> None:
    client = authority.issue("client")
    url = (
        f"vault://app?auth=cert&auth_role=web&address=https://127.0.0.1:{tls_port}"
        f"&cacert={authority.path}&client_cert={client.cert}&client_key={client.key}"
    )
    with contextlib.closing(provider_from_url(url, environ={})) as provider:
        grant = provider.fetch()
        provider.revoke(grant)
    assert grant.credentials.username.startswith("v-cert-")


def test_a_certificate_of_another_ca(authority: Authority, tls_port: int, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "other CA").issue("stranger")
    config = VaultConfig(
        f"https://127.0.0.1:{tls_port}",
        verify=str(authority.path),
        client_cert=(str(stranger.cert), str(stranger.key)),
    )
    provider = VaultDynamicProvider("app", auth=CertAuth(), config=config)
    with (
        contextlib.closing(provider),
        pytest.raises(AccessDenied, match="trusts the CA of this certificate"),
    ):
        provider.fetch()


def test_renewed_files_are_read_at_the_next_login(
    authority: Authority, tls_port: int, tmp_path: Path
) -> None:
    good = authority.issue("renewed")
    stranger = Authority(tmp_path, "other CA").issue("renewed")
    config = VaultConfig(
        f"https://127.0.0.1:{tls_port}",
        verify=str(authority.path),
        client_cert=(str(stranger.cert), str(stranger.key)),
    )
    provider = VaultDynamicProvider("app", auth=CertAuth("web"), config=config)
    with contextlib.closing(provider):
        with pytest.raises(AccessDenied):
            provider.fetch()
        stranger.cert.write_bytes(good.cert.read_bytes())
        stranger.key.write_bytes(good.key.read_bytes())
        provider.revoke(provider.fetch())


def test_without_a_certificate(engine: DatabaseEngine) -> None:
    config = VaultConfig(engine.vault.address)
    provider = VaultDynamicProvider("app", auth=CertAuth(), config=config)
    with (
        contextlib.closing(provider),
        pytest.raises(ConfigurationError, match="VAULT_CLIENT_CERT"),
    ):
        provider.fetch()
