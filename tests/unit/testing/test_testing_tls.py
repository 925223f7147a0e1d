"""The servers' TLS listeners: pauses and restarts are as without TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.testing import VaultServer, vault_request
from persistent_vault import PersistentVaultServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from certificates import Authority

SELF = "auth/token/lookup-self"


@pytest.fixture
def tls(tls_certificate: tuple[Path, Path]) -> Iterator[VaultServer]:
    with VaultServer(tls_certificate=tls_certificate) as server:
        yield server


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.path)


def look(vault: VaultServer, context: ssl.SSLContext, timeout: float = 30.0) -> int:
    return vault_request(
        vault.tls_address, "GET", SELF, token=vault.root_token, tls=context, timeout=timeout
    ).status


def test_both_listeners_are_one_vault(tls: VaultServer, context: ssl.SSLContext) -> None:
    tls.seal()
    assert look(tls, context) == 503
    assert vault_request(tls.address, "GET", "sys/health").status == 503
    tls.unseal()
    assert look(tls, context) == 200


def test_a_start_has_the_same_address(tls: VaultServer, context: ssl.SSLContext) -> None:
    address = tls.tls_address
    tls.stop()
    with pytest.raises(ConnectionRefusedError):
        look(tls, context)
    tls.start()
    assert tls.tls_address == address
    assert look(tls, context) == 200


@pytest.mark.slow
def test_a_server_that_keeps_its_storage(
    tls_certificate: tuple[Path, Path], context: ssl.SSLContext
) -> None:
    with PersistentVaultServer(tls_certificate=tls_certificate) as server:
        address = server.tls_address
        assert look(server, context) == 200
        server.stop()
        server.start()
        assert server.tls_address == address
        assert look(server, context) == 200
