"""The servers' TLS listeners: faults, pauses and restarts are as without TLS."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.testing import (
    Fault,
    PersistentVaultServer,
    RequestRecord,
    VaultEmulator,
    find_vault,
    vault_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from certificates import Authority
    from ephemeral_creds.testing import VaultLike

SELF = "auth/token/lookup-self"


@pytest.fixture
def emulator(tls_certificate: tuple[Path, Path]) -> Iterator[VaultEmulator]:
    with VaultEmulator(tls_certificate=tls_certificate) as server:
        yield server


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.path)


def look(vault: VaultLike, context: ssl.SSLContext, timeout: float = 30.0) -> int:
    return vault_request(
        vault.tls_address, "GET", SELF, token=vault.root_token, tls=context, timeout=timeout
    ).status


def test_a_reset_is_no_orderly_end(emulator: VaultEmulator, context: ssl.SSLContext) -> None:
    emulator.faults.add("GET", SELF, Fault.reset())
    with pytest.raises(ConnectionResetError):
        look(emulator, context)
    assert look(emulator, context) == 200
    assert emulator.requests == [RequestRecord("GET", SELF, 0), RequestRecord("GET", SELF, 200)]


def test_both_listeners_are_one_vault(emulator: VaultEmulator, context: ssl.SSLContext) -> None:
    emulator.seal()
    assert look(emulator, context) == 503
    assert vault_request(emulator.address, "GET", "sys/health").status == 503
    emulator.unseal()
    assert look(emulator, context) == 200


def test_a_stop_ends_a_hang_and_a_start_has_the_same_address(
    emulator: VaultEmulator, context: ssl.SSLContext
) -> None:
    address = emulator.tls_address
    emulator.faults.add("GET", SELF, Fault.hang())
    caught: list[OSError] = []

    def ask() -> None:
        try:
            look(emulator, context)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert emulator.faults.wait_until_hanging()
    emulator.stop()
    thread.join(30)
    assert len(caught) == 1
    with pytest.raises(ConnectionRefusedError):
        look(emulator, context)
    emulator.start()
    assert emulator.tls_address == address
    assert look(emulator, context) == 200


@pytest.mark.slow
def test_a_server_that_keeps_its_storage(
    tls_certificate: tuple[Path, Path], context: ssl.SSLContext
) -> None:
    if find_vault() is None:
        pytest.skip("no vault, bao or go here")
    with PersistentVaultServer(tls_certificate=tls_certificate) as server:
        address = server.tls_address
        assert look(server, context) == 200
        server.stop()
        server.start()
        assert server.tls_address == address
        assert look(server, context) == 200
