"""How Vault is reached: TLS with CAs of ours, a socket, several addresses."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest
from agent_socket import agent_on_a_socket
from minting import PATIENCE

from certificates import Authority
from ephemeral_creds import (
    ConfigurationError,
    ProviderError,
    ProviderUnavailable,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
    provider_from_url,
)
from ephemeral_creds.testing import DatabaseEngine, VaultServer, find_vault
from ephemeral_creds.testing._process import free_port, plain_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds import CredentialProvider, Grant
    from ephemeral_creds.testing import PostgresServer


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def other_name(authority: Authority) -> tuple[Path, Path]:
    """A certificate that is not for the server's address, and its key."""
    issued = authority.issue("vault.internal", server=True)
    return issued.cert, issued.key


@pytest.fixture(scope="module")
def engine(
    other_name: tuple[Path, Path], sockets: Path, postgres: PostgresServer
) -> Iterator[DatabaseEngine]:
    """One that listens on a socket as well and, with a certificate for another name, by TLS."""
    config = f"""
    listener "unix" {{
      address     = "{sockets}/vault.sock"
      tls_disable = true
    }}
    """
    with VaultServer(config=config, tls_certificate=other_name) as server:
        yield with_a_role(server, postgres)


def with_a_role(vault: VaultServer, postgres: PostgresServer) -> DatabaseEngine:
    made = DatabaseEngine(vault, postgres)
    made.create_role("app")
    return made


def mint(engine: DatabaseEngine, config: VaultConfig) -> None:
    provider = VaultDynamicProvider("app", auth=TokenAuth(engine.vault.root_token), config=config)
    with contextlib.closing(provider):
        grant = provider.fetch()
        provider.renew(grant)
        provider.revoke(grant)


def test_a_socket(engine: DatabaseEngine, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    mint(engine, VaultConfig(f"unix://{sockets}/vault.sock"))


def test_a_socket_that_is_not_there(engine: DatabaseEngine, sockets: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"unix://.*nothing.sock.* cannot be reached"):
        mint(engine, VaultConfig(f"unix://{sockets}/nothing.sock"))


def test_the_agent_behind_a_socket_logs_in(
    engine: DatabaseEngine, tmp_path: Path, canary: Canary
) -> None:
    """An agent that adds its own token to what has none."""
    canary.allow_secret_file(tmp_path)
    token = engine.admin.create_token([engine.policy("app")], ttl="1h")
    with agent_on_a_socket(tmp_path, engine.vault.address, token) as path:
        give_up_at = time.monotonic() + PATIENCE
        while not path.exists() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        url = f"vault://app?auth=agent&address=unix://{path}"
        with contextlib.closing(provider_from_url(url, environ={})) as provider:
            grant = fetch_when_ready(provider, give_up_at)
            assert provider.renew(grant).duration == pytest.approx(3600, abs=100)
            provider.revoke(grant)
    # It is the agent's: ours is not to revoke it.
    assert engine.admin.request("GET", "auth/token/lookup-self", token=token).status == 200


def fetch_when_ready(provider: CredentialProvider, give_up_at: float) -> Grant:
    """Fetch as soon as the agent has logged in."""
    while True:
        try:
            return provider.fetch()
        except ProviderError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def test_a_certificate_for_another_name(engine: DatabaseEngine, authority: Authority) -> None:
    config = VaultConfig(
        engine.vault.tls_address,
        verify=str(authority.path),
        tls_server_name="vault.internal",
    )
    mint(engine, config)


def test_a_directory_of_cas_as_the_vault_command_takes_it(
    engine: DatabaseEngine, authority: Authority, tmp_path: Path
) -> None:
    """VAULT_CAPATH: plain PEM files under any name, where OpenSSL wants hashes for names."""
    environ = {
        "VAULT_ADDR": engine.vault.tls_address,
        "VAULT_CAPATH": str(tmp_path),
        "VAULT_TLS_SERVER_NAME": "vault.internal",
    }
    with pytest.raises(ConfigurationError, match="cannot be trusted"):
        mint(engine, VaultConfig.from_env(environ))
    (tmp_path / "company.crt").write_text(authority.pem)
    mint(engine, VaultConfig.from_env(environ))
    assert_command_works(environ)


def test_cas_in_a_variable_as_the_vault_command_takes_them(
    engine: DatabaseEngine, authority: Authority, tmp_path: Path
) -> None:
    """VAULT_CACERT_BYTES: the text of a PEM file."""
    environ = {
        "VAULT_ADDR": engine.vault.tls_address,
        "VAULT_CACERT_BYTES": Authority(tmp_path, "other").pem,
        "VAULT_TLS_SERVER_NAME": "vault.internal",
    }
    with pytest.raises(ConfigurationError, match="cannot be trusted"):
        mint(engine, VaultConfig.from_env(environ))
    environ["VAULT_CACERT_BYTES"] += authority.pem
    mint(engine, VaultConfig.from_env(environ))
    assert_command_works(environ)


def assert_command_works(environ: dict[str, str]) -> None:
    command = subprocess.run(
        [str(find_vault()), "status"],
        env=plain_environment(environ),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert command.returncode == 0, command.stderr


@pytest.mark.parametrize("name", [None, "other.internal"])
def test_the_wrong_name(engine: DatabaseEngine, authority: Authority, name: str | None) -> None:
    config = VaultConfig(engine.vault.tls_address, verify=str(authority.path), tls_server_name=name)
    with pytest.raises(ConfigurationError, match=r"cannot be trusted: .*mismatch"):
        mint(engine, config)


def test_an_unknown_ca(engine: DatabaseEngine, tmp_path: Path) -> None:
    config = VaultConfig(
        engine.vault.tls_address,
        verify=str(Authority(tmp_path, "other").path),
        tls_server_name="vault.internal",
    )
    with pytest.raises(ConfigurationError, match=r"cannot be trusted.*set VAULT_CACERT"):
        mint(engine, config)


def test_verification_can_be_skipped_by_url(engine: DatabaseEngine) -> None:
    environ = {"VAULT_TOKEN": engine.vault.root_token.reveal()}
    url = f"vault://app?auth=token&skip_verify=true&address={engine.vault.tls_address}"
    with contextlib.closing(provider_from_url(url, environ=environ)) as provider:
        provider.revoke(provider.fetch())


def test_the_next_address_is_asked_where_one_cannot_be_reached(engine: DatabaseEngine) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    config = VaultConfig(f"{nobody},{engine.vault.address}")
    provider = VaultDynamicProvider("app", auth=TokenAuth(engine.vault.root_token), config=config)
    with contextlib.closing(provider):
        grant = provider.fetch()
        sent = provider.requests_sent
        provider.revoke(grant)
        # The address that answered is asked first from then on.
        assert provider.requests_sent == sent + 1


def test_a_sealed_node_is_passed_over(engine: DatabaseEngine, own_vault: VaultServer) -> None:
    own_vault.seal()
    mint(engine, VaultConfig(f"{own_vault.address},{engine.vault.address}"))
    both = VaultConfig(f"{own_vault.address},http://127.0.0.1:{free_port()}")
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        mint(engine, both)


def test_no_mint_is_repeated_at_another_address(engine: DatabaseEngine) -> None:
    """A request that was sent may have been done, whatever became of the connection."""
    before = engine.mints("app")
    with Dropping() as dropping:
        config = VaultConfig(f"{dropping.address},{engine.vault.address}")
        auth = TokenAuth(engine.vault.root_token)
        provider = VaultDynamicProvider("app", auth=auth, config=config)
        with contextlib.closing(provider):
            with pytest.raises(ProviderUnavailable, match=f"{dropping.address}, asked for a look"):
                provider.fetch()
            assert engine.mints("app") == before
            provider.revoke(provider.fetch())
            assert engine.mints("app") == before + 1


@pytest.mark.parametrize("sick", ["hangs", "closes"])
def test_a_node_that_is_sick_from_the_start_is_asked_nothing(
    engine: DatabaseEngine, sick: str
) -> None:
    """A pool that starts during an outage of the first node must not wait for it, nor crash."""
    with Dropping() if sick == "closes" else Hanging() as first:
        # Long enough for the other one on a slow machine, and short enough to wait for it once.
        config = VaultConfig(f"{first.address},{engine.vault.address}", connect_timeout=5)
        first.well = False
        mint(engine, config)


class Dropping:
    """Says that it is well, and closes every other request's connection without a word."""

    def __init__(self) -> None:
        self.well = True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        if self.well and b"/sys/health" in connection.recv(65536):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            connection.sendall(head + b"{}")

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


class Hanging(Dropping):
    """Reads and never answers, until the other side has had enough."""

    def answer(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
