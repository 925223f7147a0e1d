"""Fixtures for the tests of a service: servers, credentials that rotate, pools.

pytest loads this module in every run, so it imports nothing until a fixture is asked for:
names of the packages, too, are imported when they are used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import ephemeral_creds as creds
from ephemeral_creds import testing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from psycopg import AsyncConnection, Connection

    from ephemeral_creds.testing._sources import Source

    Engine = tuple[
        testing.DatabaseEngine[testing.VaultAccess, testing.PostgresAccess], testing.AppRole
    ]

_SERVERS = {
    "postgres": ("a DSN of its superuser", "postgres:17"),
    "vault": (
        "http://HOST:PORT of one (root token: EPHEMERAL_CREDS_VAULT_TOKEN)",
        "openbao/openbao:2",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which servers, which schema and which rights."""
    group = parser.getgroup("ephemeral-creds", "servers of ephemeral-creds")
    for name, (external, image) in _SERVERS.items():
        variable = f"EPHEMERAL_CREDS_{name.upper()}"
        group.addoption(
            f"--ephemeral-{name}",
            default=os.environ.get(variable, ""),
            metavar="WHICH",
            help=f"testcontainers, path, wheel, or {external}; by default {variable}, else the "
            "first of these that there is",
        )
        group.addoption(
            f"--ephemeral-{name}-image",
            default=image,
            metavar="IMAGE",
            help="the image for testcontainers (%(default)s)",
        )
    parser.addini("ephemeral_schema", "files of SQL for the tests' database", "paths")
    parser.addini("ephemeral_grants", "statements that give {{name}} its rights", "linelist")


def pytest_report_header(config: pytest.Config) -> str:
    """Say which servers would be used; none is started for this."""
    try:
        postgres, vault = _sources(config)
    except creds.ConfigurationError as error:
        return f"ephemeral-creds: {error}"
    return f"ephemeral-creds: {postgres.text}; {vault.text}"


def _sources(config: pytest.Config) -> tuple[Source, Source]:
    from ephemeral_creds.testing._sources import postgres_source, vault_source

    def told(name: str) -> str:
        return str(config.getoption(f"--ephemeral-{name}"))

    postgres = postgres_source(told("postgres"), told("postgres-image"))
    return postgres, vault_source(told("vault"), told("vault-image"), postgres)


# --- What a test's database has: override these -------------------------------------------------


@pytest.fixture(scope="session")
def ephemeral_schema(pytestconfig: pytest.Config) -> str:
    """SQL that the superuser runs once; by default the files of the setting of this name."""
    files: list[Path] = pytestconfig.getini("ephemeral_schema")
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture(scope="session")
def ephemeral_grants(pytestconfig: pytest.Config) -> Sequence[str]:
    """Statements that give ``{{name}}`` its rights; by default the setting of this name."""
    grants: list[str] = pytestconfig.getini("ephemeral_grants")
    return grants


# --- Servers, one of each for a run (and for each worker of pytest-xdist) -----------------------


@pytest.fixture(scope="session")
def ephemeral_postgres(
    pytestconfig: pytest.Config, ephemeral_schema: str
) -> Iterator[testing.PostgresAccess]:
    """A PostgreSQL with `ephemeral_schema`: host, port, superuser, ``conninfo()``, ``admin()``."""
    from ephemeral_creds.testing._servers import running_postgres

    with running_postgres(_sources(pytestconfig)[0]) as postgres:
        if ephemeral_schema:
            with postgres.admin() as conn:
                conn.execute(ephemeral_schema.encode())
        yield postgres


@pytest.fixture(scope="session")
def _ephemeral_engine(
    pytestconfig: pytest.Config, ephemeral_postgres: testing.PostgresAccess
) -> Iterator[Engine]:
    from ephemeral_creds.testing._servers import database_engine, running_vault
    from ephemeral_creds.testing._sources import check_reach

    postgres, source = _sources(pytestconfig)
    check_reach(source, postgres, ephemeral_postgres.host)
    token = os.environ.get("EPHEMERAL_CREDS_VAULT_TOKEN", "")
    with (
        running_vault(source, token, ephemeral_postgres) as vault,
        database_engine(source, vault, ephemeral_postgres) as engine,
    ):
        yield engine


# --- For each test ------------------------------------------------------------------------------


@pytest.fixture
def ephemeral_vault(
    _ephemeral_engine: Engine, ephemeral_grants: Sequence[str]
) -> Iterator[testing.EphemeralVault]:
    """A Vault with a role of this test's own, and verbs such as ``rotate()`` and ``outage()``."""
    vault = testing.EphemeralVault(*_ephemeral_engine, ephemeral_grants)
    yield vault
    vault.close()


@pytest.fixture
def ephemeral_provider(ephemeral_vault: testing.EphemeralVault) -> creds.VaultDynamicProvider:
    """A provider of the role's credentials, for one keeper or one pool of the test's own."""
    return ephemeral_vault.provider()


@pytest.fixture
def credential_events() -> testing.EventCollector:
    """What `credential_keeper` and its pools report."""
    return testing.EventCollector()


@pytest.fixture
def credential_keeper(
    ephemeral_vault: testing.EphemeralVault,
    ephemeral_provider: creds.VaultDynamicProvider,
    credential_events: testing.EventCollector,
) -> Iterator[creds.CredentialKeeper]:
    """A keeper that has credentials, and is as quick as a test wants it."""
    with creds.CredentialKeeper(
        ephemeral_provider,
        refresh=creds.RefreshPolicy(mint_interval=0.0, retry_initial=0.05, retry_max=0.5),
        observers=[creds.log_event, credential_events],
        clock=ephemeral_vault.clock,
    ) as keeper:
        keeper.wait()
        yield keeper


@pytest.fixture
def rotating_pool(
    credential_keeper: creds.CredentialKeeper, ephemeral_postgres: testing.PostgresAccess
) -> Iterator[creds.RotatingConnectionPool[Connection]]:
    """An open pool of up to four connections."""
    conninfo = ephemeral_postgres.conninfo()
    with creds.RotatingConnectionPool(credential_keeper, conninfo, min_size=1, max_size=4) as pool:
        pool.wait()
        yield pool


@pytest.fixture
def async_rotating_pool(
    credential_keeper: creds.CredentialKeeper, ephemeral_postgres: testing.PostgresAccess
) -> creds.AsyncRotatingConnectionPool[AsyncConnection]:
    """The same for asyncio, to be opened by the test: ``async with async_rotating_pool:``."""
    conninfo = ephemeral_postgres.conninfo()
    return creds.AsyncRotatingConnectionPool(credential_keeper, conninfo, min_size=1, max_size=4)


@pytest.fixture
def credentials_file(
    tmp_path: Path, ephemeral_vault: testing.EphemeralVault
) -> Iterator[testing.CredentialsFile]:
    """A sidecar's file with the role's credentials; ``rewrite()`` puts others into it."""
    file = testing.CredentialsFile(tmp_path / "db-creds", ephemeral_vault)
    yield file
    file.close()
