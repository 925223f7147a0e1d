"""Where the pytest plugin's servers come from, and which of them reach each other."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing import _sources
from ephemeral_creds.testing._sources import Source, check_reach, postgres_source, vault_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DSN = "postgresql://postgres:hunter2@db.example:5433/app"
WHEEL = Source("wheel", "/bin", "PostgreSQL 18 from the wheel")
CONTAINED = Source("testcontainers", "postgres:17", "PostgreSQL in a container of postgres:17")
GIVEN = Source("external", DSN, "PostgreSQL of the DSN given")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that accepts connections where a container engine would, and the package."""
    address = str(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    (tmp_path / "testcontainers").mkdir()
    (tmp_path / "testcontainers" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        yield


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of both servers, the first on PATH."""
    monkeypatch.delenv("EPHEMERAL_CREDS_VAULT_BINARY", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("initdb", "postgres", "bao"):
        (folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def nothing_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_VAULT_BINARY", raising=False)
    monkeypatch.setattr(_sources, "postgres_on_path", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("engine", "on_path")
def test_a_given_address_comes_first() -> None:
    postgres = postgres_source(DSN, "postgres:17")
    assert (postgres.kind, postgres.where) == ("external", DSN)
    vault = vault_source("http://vault:8200", "image", postgres)
    assert (vault.kind, vault.where) == ("external", "http://vault:8200")


def test_a_dsn_is_never_shown() -> None:
    assert "hunter2" not in repr(postgres_source(DSN, "")) + postgres_source(DSN, "").text


@pytest.mark.usefixtures("engine", "on_path")
def test_containers_come_before_programs() -> None:
    postgres = postgres_source("", "postgres:16")
    assert (postgres.kind, postgres.where) == ("testcontainers", "postgres:16")
    vault = vault_source("", "openbao/openbao:2", postgres)
    assert (vault.kind, vault.where) == ("testcontainers", "openbao/openbao:2")


@pytest.mark.usefixtures("engine")
def test_a_vault_in_a_container_is_not_chosen_for_a_postgres_outside(on_path: Path) -> None:
    vault = vault_source("", "openbao/openbao:2", postgres_source("path", ""))
    assert (vault.kind, vault.where) == ("path", str(on_path / "bao"))


@pytest.mark.usefixtures("no_engine")
def test_programs_on_path_come_before_wheels(on_path: Path) -> None:
    postgres = postgres_source("", "")
    assert (postgres.kind, postgres.where) == ("path", str(on_path))
    assert vault_source("", "", postgres).kind == "path"


@pytest.mark.usefixtures("no_engine", "nothing_on_path")
def test_wheels_come_last_and_say_their_version() -> None:
    postgres = postgres_source("", "")
    assert postgres.kind == "wheel"
    assert postgres.text.startswith("PostgreSQL 1")
    vault = vault_source("", "", postgres)
    assert vault.kind == "wheel"
    assert vault.text.startswith("OpenBao 2.")


@pytest.mark.usefixtures("on_path")
def test_one_word_forces_a_kind() -> None:
    assert postgres_source("wheel", "").kind == "wheel"
    assert vault_source("wheel", "", WHEEL).kind == "wheel"


@pytest.mark.usefixtures("no_engine", "nothing_on_path")
def test_a_forced_kind_that_is_not_there_fails_and_says_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match=r"postgres=testcontainers.* needs the package"):
        postgres_source("testcontainers", "postgres:17")
    with pytest.raises(ConfigurationError, match="--ephemeral-vault=path found no program on PATH"):
        vault_source("path", "", WHEEL)


def test_a_word_that_means_nothing_is_no_address() -> None:
    with pytest.raises(ConfigurationError, match="--ephemeral-postgres=docker: give its address"):
        postgres_source("docker", "")
    with pytest.raises(ConfigurationError, match="--ephemeral-vault=docker: give its address"):
        vault_source("docker", "", WHEEL)


def vault_at(address: str) -> Source:
    return Source("external", address, f"Vault at {address}")


BAO = Source("testcontainers", "openbao/openbao:2", "Vault in a container of openbao/openbao:2")


@pytest.mark.parametrize(
    ("vault", "postgres", "host"),
    [
        (Source("wheel", "bao", "OpenBao"), WHEEL, "127.0.0.1"),
        (Source("wheel", "bao", "OpenBao"), CONTAINED, "localhost"),
        (BAO, CONTAINED, "localhost"),
        (BAO, GIVEN, "db.example"),
        (vault_at("http://127.0.0.1:8200"), WHEEL, "127.0.0.1"),
        (vault_at("http://vault.example:8200"), GIVEN, "db.example"),
    ],
)
def test_these_reach_each_other(vault: Source, postgres: Source, host: str) -> None:
    check_reach(vault, postgres, host)


@pytest.mark.parametrize(
    ("vault", "postgres", "host"),
    [
        (BAO, WHEEL, "127.0.0.1"),
        (BAO, GIVEN, "localhost"),
        (vault_at("http://vault.example:8200"), WHEEL, "127.0.0.1"),
        (vault_at("http://vault.example:8200"), CONTAINED, "localhost"),
    ],
)
def test_these_do_not_and_it_is_said_before_vault_tries(
    vault: Source, postgres: Source, host: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot reach PostgreSQL.*take both from"):
        check_reach(vault, postgres, host)
