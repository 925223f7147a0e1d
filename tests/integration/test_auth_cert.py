"""Logins by client certificate, by TLS."""

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
from ephemeral_creds.events import ProviderRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from canary import Canary
    from certificates import Issued
    from ephemeral_creds import Event
    from ephemeral_creds.testing import DatabaseEngine

    Unique = Callable[[str], str]


@pytest.fixture
def role(engine: DatabaseEngine, unique: Unique) -> str:
    """A role of the database, in place of the one that only one Vault has."""
    engine.create_role(name := unique("by_cert"))
    return name


@pytest.fixture
def mount(engine: DatabaseEngine, authority: Authority, unique: Unique, role: str) -> str:
    """An auth method where a certificate of `authority` is good for `role`."""
    admin = engine.admin
    admin.enable_auth("cert", path := unique("cert"))
    body = {"certificate": authority.pem, "token_policies": [engine.policy(role)]}
    admin.call("POST", f"auth/{path}/certs/web", body)
    return path


def showing(engine: DatabaseEngine, authority: Authority, client: Issued) -> VaultConfig:
    return VaultConfig(
        engine.vault.tls_address,
        verify=str(authority.path),
        client_cert=(str(client.cert), str(client.key)),
    )


def test_a_certificate_by_url(
    engine: DatabaseEngine, authority: Authority, mount: str, role: str, canary: Canary
) -> None:
    client = authority.issue("client")
    url = (
        f"vault://{role}?auth=cert&auth_role=web&auth_mount={mount}"
        f"&address={engine.vault.tls_address}"
        f"&cacert={authority.path}&client_cert={client.cert}&client_key={client.key}"
    )
    with contextlib.closing(provider_from_url(url, environ={})) as provider:
        grant = provider.fetch()
        provider.revoke(grant)
    assert grant.credentials.username.startswith("v-cert")


def test_a_certificate_of_another_ca(
    engine: DatabaseEngine, authority: Authority, mount: str, role: str, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "other CA").issue("stranger")
    config = showing(engine, authority, stranger)
    provider = VaultDynamicProvider(role, auth=CertAuth(mount=mount), config=config)
    with (
        contextlib.closing(provider),
        pytest.raises(AccessDenied, match="trusts the CA of this certificate"),
    ):
        provider.fetch()


def test_renewed_files_are_read_at_the_next_login(
    engine: DatabaseEngine, authority: Authority, mount: str, role: str, tmp_path: Path
) -> None:
    good = authority.issue("renewed")
    stranger = Authority(tmp_path, "other CA").issue("renewed")
    config = showing(engine, authority, stranger)
    provider = VaultDynamicProvider(role, auth=CertAuth("web", mount=mount), config=config)
    with contextlib.closing(provider):
        with pytest.raises(AccessDenied):
            provider.fetch()
        stranger.cert.write_bytes(good.cert.read_bytes())
        stranger.key.write_bytes(good.key.read_bytes())
        provider.revoke(provider.fetch())


def test_a_token_is_renewed_by_any_client_with_the_certificate(
    engine: DatabaseEngine, authority: Authority, mount: str, role: str
) -> None:
    limits = {"token_ttl": "10m", "token_max_ttl": "2h"}
    engine.admin.call("POST", f"auth/{mount}/certs/web", limits)
    config = showing(engine, authority, authority.issue("renewing"))
    provider = VaultDynamicProvider(role, auth=CertAuth(mount=mount), config=config)
    seen: list[ProviderRequest] = []

    def note(event: Event) -> None:
        assert isinstance(event, ProviderRequest)
        seen.append(event)

    provider.observe(note)
    with contextlib.closing(provider):
        grant = provider.fetch()
        provider.renew(grant)
        provider.revoke(grant)
    assert [(e.operation, e.outcome) for e in seen] == [
        ("login", "done"), ("mint", "done"), ("renew-token", "done"), ("renew", "done"),
        ("revoke", "done"), ("revoke-token", "done"),
    ]  # fmt: skip


def test_without_a_certificate(engine: DatabaseEngine) -> None:
    config = VaultConfig(engine.vault.address)
    provider = VaultDynamicProvider("app", auth=CertAuth(), config=config)
    with (
        contextlib.closing(provider),
        pytest.raises(ConfigurationError, match="VAULT_CLIENT_CERT"),
    ):
        provider.fetch()
