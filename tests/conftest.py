"""Real servers for the tests that need them, started once, and what was used in the last lines.

Ask for the least that will do: `engine` and `role` for most tests, `emulator` to script faults,
`own_vault` and `own_postgres` to stop, seal or pause something. `any_engine` runs a test twice,
against a real Vault and against the emulator.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from certificates import Authority
from ephemeral_creds.testing import (
    DatabaseEngine,
    PersistentVaultServer,
    PostgresServer,
    VaultEmulator,
    VaultServer,
    find_vault,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from ephemeral_creds.testing import VaultLike

# --- Plugins of our own -------------------------------------------------------------------------
# The canary (tests/canary.py), which looks for secrets in everything that a test lets out, is
# switched on here by its module's name.

pytest_plugins = ["canary"]

# --- Signals ------------------------------------------------------------------------------------
# What a shell starts in the background ignores these, and so do all its children; the tests that
# send them would wait for ever.

for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# --- Random examples ----------------------------------------------------------------------------
# How long one takes says nothing on a busy machine. The same ones each time, unless somebody asks
# for more of them: a change must not fail for what it has nothing to do with.

settings.register_profile(
    "suite",
    deadline=None,
    derandomize="EPHEMERAL_CREDS_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# --- What was used ------------------------------------------------------------------------------

_NO_VAULT = "no vault, bao or go here"
_vault_used = pytest.StashKey[str]()
_postgres_used = pytest.StashKey[str]()

_POSTGRES_FIXTURES = {"postgres", "own_postgres"}
_VAULT_FIXTURES = {
    "real_vault",
    "shared_emulator",
    "emulator",
    "own_vault",
    "any_vault",
    "vault",
    "durable",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for, so that ``-m "not vault"`` needs no bookkeeping."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & _POSTGRES_FIXTURES:
            item.add_marker(pytest.mark.postgres)
        if names & _VAULT_FIXTURES:
            item.add_marker(pytest.mark.vault)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Say which servers were used, after everything else that reports itself."""
    yield
    terminalreporter.section("servers")
    postgres = config.stash.get(_postgres_used, "none, no test asked for one")
    vault = config.stash.get(_vault_used, "none, no test asked for one")
    terminalreporter.write_line(f"PostgreSQL server used: {postgres}")
    terminalreporter.write_line(f"Vault server used: {vault}")


def _note_emulator(config: pytest.Config) -> None:
    reason = _NO_VAULT if find_vault() is None else "no test asked for a real one"
    config.stash.setdefault(_vault_used, f"emulator ({reason})")


# --- Certificates -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority for all tests: that of the Vaults that they share."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def tls_certificate(authority: Authority) -> tuple[Path, Path]:
    """What those Vaults show at their `tls_address`: certificate and key."""
    issued = authority.issue("localhost", server=True, ip="127.0.0.1")
    return issued.cert, issued.key


# --- Servers ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests; leave it running and make roles and tables of your own."""
    with PostgresServer() as server:
        pytestconfig.stash[_postgres_used] = server.version
        yield server


@pytest.fixture
def own_postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, to stop and start (0.6 s)."""
    with PostgresServer() as server:
        pytestconfig.stash[_postgres_used] = server.version
        yield server


@pytest.fixture(scope="session")
def real_vault(
    pytestconfig: pytest.Config, tls_certificate: tuple[Path, Path]
) -> Iterator[VaultServer]:
    """A real Vault for all tests; skips where there is none."""
    binary = find_vault()
    if binary is None:
        pytest.skip(f"no real Vault: {_NO_VAULT}")
    with VaultServer(binary, tls_certificate=tls_certificate) as server:
        pytestconfig.stash[_vault_used] = f"{server.version} ({binary})"
        yield server


@pytest.fixture(scope="session")
def shared_emulator(
    pytestconfig: pytest.Config, tls_certificate: tuple[Path, Path]
) -> Iterator[VaultEmulator]:
    """An emulator for all tests; without faults, please."""
    _note_emulator(pytestconfig)
    with VaultEmulator(tls_certificate=tls_certificate) as server:
        yield server


@pytest.fixture
def emulator(pytestconfig: pytest.Config) -> Iterator[VaultEmulator]:
    """An emulator for one test, to script faults on."""
    _note_emulator(pytestconfig)
    with VaultEmulator() as server:
        yield server


@pytest.fixture(scope="session")
def vault(request: pytest.FixtureRequest) -> VaultLike:
    """A Vault for all tests: a real one where there is one, else the emulator."""
    if find_vault() is not None:
        server: VaultServer = request.getfixturevalue("real_vault")
        return server
    stand_in: VaultEmulator = request.getfixturevalue("shared_emulator")
    return stand_in


@pytest.fixture
def own_vault(pytestconfig: pytest.Config) -> Iterator[VaultLike]:
    """A Vault for one test, of the same kind as `vault`, to seal, pause or stop (0.5 s)."""
    if (binary := find_vault()) is None:
        _note_emulator(pytestconfig)
        with VaultEmulator() as stand_in:
            yield stand_in
        return
    with VaultServer(binary) as server:
        pytestconfig.stash[_vault_used] = f"{server.version} ({binary})"
        yield server


@pytest.fixture(scope="module")
def durable(pytestconfig: pytest.Config) -> Iterator[PersistentVaultServer]:
    """A real Vault that keeps its storage, for a module's tests to stop and start; or skips."""
    binary = find_vault()
    if binary is None:
        pytest.skip(f"no real Vault: {_NO_VAULT}")
    with PersistentVaultServer(binary) as server:
        pytestconfig.stash[_vault_used] = f"{server.version} ({binary})"
        yield server


@pytest.fixture(scope="session", params=["real", "emulator"])
def any_vault(request: pytest.FixtureRequest) -> VaultLike:
    """Run the test with a real Vault, then with the emulator."""
    name = "real_vault" if request.param == "real" else "shared_emulator"
    server: VaultLike = request.getfixturevalue(name)
    return server


# --- Database engines and roles -----------------------------------------------------------------


@pytest.fixture(scope="session")
def engine(vault: VaultLike, postgres: PostgresServer) -> DatabaseEngine:
    """The database engine of `vault`, connected to `postgres`."""
    return DatabaseEngine(vault, postgres)


@pytest.fixture(scope="session")
def any_engine(any_vault: VaultLike, postgres: PostgresServer) -> DatabaseEngine:
    """The database engine of `any_vault`, connected to `postgres`."""
    return DatabaseEngine(any_vault, postgres)


_numbers = itertools.count(1)


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make names that no other test uses: ``unique("role")`` is ``role17``."""
    return lambda stem: f"{stem}{next(_numbers)}"


@pytest.fixture
def role(engine: DatabaseEngine, unique: Callable[[str], str]) -> str:
    """A role of `engine` that no other test uses: an hour at first, a day at most."""
    name = unique("role")
    engine.create_role(name)
    return name
