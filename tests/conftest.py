"""Real servers for the tests that need them, started once, and what was used in the last lines.

Ask for the least that will do: `engine` and `role` for most tests, `own_vault` and `own_postgres`
to script faults, or to stop, seal or pause something.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from certificates import Authority
from ephemeral_creds.testing import (
    DatabaseEngine,
    EphemeralVault,
    PostgresAccess,
    PostgresServer,
    VaultAccess,
    VaultServer,
)
from persistent_vault import PersistentVaultServer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

# --- Plugins of our own -------------------------------------------------------------------------
# The canary (tests/canary.py), which looks for secrets in everything that a test lets out, is
# switched on here by its module's name.

pytest_plugins = ["canary"]

# --- Signals ------------------------------------------------------------------------------------
# What a shell starts in the background ignores these, and so do all its children; the tests that
# send them would never end.

for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# --- Random examples ----------------------------------------------------------------------------
# How long one takes says nothing on a busy machine. The same ones each time, unless the caller asks
# for more of them: a change must not fail for what it has nothing to do with.

settings.register_profile(
    "suite",
    deadline=None,
    derandomize="EPHEMERAL_CREDS_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# --- What was used ------------------------------------------------------------------------------

_used = pytest.StashKey[set[tuple[str, str]]]()

_POSTGRES_FIXTURES = {"postgres", "own_postgres", "ephemeral_postgres"}
_VAULT_FIXTURES = {"vault", "own_vault", "durable", "ephemeral_vault"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for, so that ``-m "not vault"`` needs no bookkeeping."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & _POSTGRES_FIXTURES:
            item.add_marker(pytest.mark.postgres)
        if names & _VAULT_FIXTURES:
            item.add_marker(pytest.mark.vault)


class _Notes:
    """No conftest's own hook: for the fixtures of a whole run pytest calls none of those here."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Take note of the servers that fixtures return, ours and the plugin's."""
        server = yield
        if fixturedef.argname in _POSTGRES_FIXTURES | _VAULT_FIXTURES:
            vault = server.engine.vault if isinstance(server, EphemeralVault) else server
            _note(request.config, vault)
        return server


def pytest_configure(config: pytest.Config) -> None:
    """Take note of servers."""
    config.pluginmanager.register(_Notes())


def _note(config: pytest.Config, server: object) -> None:
    used = config.stash.setdefault(_used, set())
    if isinstance(server, PostgresAccess):
        used.add(("PostgreSQL", server.version))
    elif isinstance(server, VaultServer):
        used.add(("Vault", f"{server.version} ({server.binary})"))
    elif isinstance(server, VaultAccess):
        used.add(("Vault", f"at {server.server_address}"))


@pytest.fixture
def note_servers(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Take note of the servers that another pytest says it has used: those in its header."""

    def note(said: str) -> None:
        if header := re.search(r"^ephemeral-creds: (PostgreSQL .*); (.*)$", said, re.MULTILINE):
            used = pytestconfig.stash.setdefault(_used, set())
            used |= {("PostgreSQL", header[1]), ("Vault", header[2])}

    return note


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Say which servers were used, after everything else that reports itself."""
    yield
    terminalreporter.section("servers")
    used = config.stash.get(_used, set())
    for kind in ("PostgreSQL", "Vault"):
        these = sorted(which for other, which in used if other == kind)
        for which in these or ["none, no test asked for one"]:
            terminalreporter.write_line(f"{kind} server used: {which}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process, if this is one of pytest-xdist's workers."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        used = session.config.stash.get(_used, None)
        output["servers used"] = sorted(used or ())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what such a worker tells."""
    told = getattr(node, "workeroutput", {}).get("servers used", [])
    node.config.stash.setdefault(_used, set()).update(map(tuple, told))


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
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests; leave it running and make roles and tables of your own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, to stop and start (0.6 s)."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def vault(tls_certificate: tuple[Path, Path]) -> Iterator[VaultServer]:
    """A Vault or OpenBao for all tests; without faults, please."""
    with VaultServer(tls_certificate=tls_certificate) as server:
        yield server


@pytest.fixture
def own_vault() -> Iterator[VaultServer]:
    """A Vault or OpenBao for one test, to script faults on, or to seal, pause or stop (0.3 s)."""
    with VaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def durable() -> Iterator[PersistentVaultServer]:
    """One that keeps its storage, for a module's tests to stop and start."""
    with PersistentVaultServer() as server:
        yield server


# --- Database engines and roles -----------------------------------------------------------------


@pytest.fixture(scope="session")
def engine(vault: VaultServer, postgres: PostgresServer) -> DatabaseEngine:
    """The database engine of `vault`, connected to `postgres`."""
    return DatabaseEngine(vault, postgres)


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
