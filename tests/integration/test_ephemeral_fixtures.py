"""The fixtures and verbs that services test with, on the servers that the plugin finds here."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from twins import wait_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CredentialKeeper,
    CredentialsExpired,
    FileProvider,
    ProviderUnavailable,
    RotatingConnectionPool,
    VaultDynamicProvider,
)
from ephemeral_creds.events import (
    CredentialsPublished,
    FetchFailed,
    LeaseExpired,
    LeaseRenewed,
    RenewalFailed,
)
from ephemeral_creds.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ephemeral_creds.testing import (
        CredentialsFile,
        EphemeralVault,
        EventCollector,
        PostgresAccess,
    )

    SyncPool = RotatingConnectionPool[psycopg.Connection]
    AsyncPool = AsyncRotatingConnectionPool[psycopg.AsyncConnection]

PATIENCE = 30.0


@pytest.fixture(scope="session")
def ephemeral_schema() -> str:
    return "CREATE TABLE ephemeral_parts (name text); INSERT INTO ephemeral_parts VALUES ('nut')"


@pytest.fixture(scope="session")
def ephemeral_grants() -> Sequence[str]:
    return ['GRANT SELECT ON ephemeral_parts TO "{{name}}"']


def user(pool: SyncPool) -> str:
    with pool.connection() as conn:
        return current_user(conn)


def current_user(conn: psycopg.Connection) -> str:
    [name] = conn.execute("SELECT current_user").fetchone() or [""]
    return str(name)


def answers(pool: SyncPool) -> bool:
    """Return once a query succeeds: what a service that tries again sees in the end."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        try:
            return bool(user(pool))
        except psycopg.Error:
            time.sleep(0.01)
    return False


def test_a_role_has_what_schema_and_grants_say(rotating_pool: SyncPool) -> None:
    with rotating_pool.connection() as conn:
        assert conn.execute("SELECT name FROM ephemeral_parts").fetchall() == [("nut",)]
    with rotating_pool.connection() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM ephemeral_parts")


def test_rotate_returns_when_every_idle_connection_is_new(
    ephemeral_vault: EphemeralVault, credential_keeper: CredentialKeeper,
    ephemeral_postgres: PostgresAccess,
) -> None:  # fmt: skip
    with RotatingConnectionPool(
        credential_keeper, ephemeral_postgres.conninfo(), min_size=4
    ) as pool:
        pool.wait()
        for _ in range(3):
            with pool.connection() as held:
                before = current_user(held)
                ephemeral_vault.rotate()
                conns = [pool.getconn() for _ in range(3)]
                assert {current_user(conn) for conn in conns}.isdisjoint({before})
                assert current_user(held) == before
                for conn in conns:
                    pool.putconn(conn)


def test_rotate_knows_a_pool_that_the_service_made(
    ephemeral_vault: EphemeralVault,
    ephemeral_provider: VaultDynamicProvider,
    ephemeral_postgres: PostgresAccess,
) -> None:
    conninfo = ephemeral_postgres.conninfo()
    with RotatingConnectionPool(ephemeral_provider, conninfo, min_size=1) as pool:
        pool.wait()
        before = user(pool)
        ephemeral_vault.rotate()
        assert user(pool) != before


def test_rotate_says_that_no_pool_would_rotate(ephemeral_vault: EphemeralVault) -> None:
    with pytest.raises(RuntimeError, match="ephemeral_provider"):
        ephemeral_vault.rotate()


def test_async_pool_rotates(
    async_rotating_pool: AsyncPool, ephemeral_vault: EphemeralVault
) -> None:
    async def service() -> None:
        async def who() -> str:
            async with async_rotating_pool.connection() as conn:
                return str(await (await conn.execute("SELECT current_user")).fetchone())

        async with async_rotating_pool:
            before = await who()
            with pytest.raises(RuntimeError, match=r"asyncio\.to_thread\(ephemeral_vault\.rotate"):
                ephemeral_vault.rotate()
            await asyncio.to_thread(ephemeral_vault.rotate)
            assert await who() != before

    asyncio.run(service())


def test_outage_stops_fetches_and_ends(
    rotating_pool: SyncPool,
    ephemeral_vault: EphemeralVault,
    credential_keeper: CredentialKeeper,
    credential_events: EventCollector,
) -> None:
    before = user(rotating_pool)
    with ephemeral_vault.outage():
        with pytest.raises(ProviderUnavailable):
            credential_keeper.refresh()
        credential_events.wait_for(FetchFailed)
        assert user(rotating_pool) == before
    ephemeral_vault.rotate()
    assert user(rotating_pool) != before


def test_rotate_does_not_fail_with_a_fetch_that_began_before(
    ephemeral_vault: EphemeralVault, credential_keeper: CredentialKeeper
) -> None:
    ephemeral_vault.faults.add("GET", ephemeral_vault.path, Fault.hang())
    with ThreadPoolExecutor() as threads:
        earlier = threads.submit(credential_keeper.refresh)
        assert ephemeral_vault.faults.wait_until_hanging()
        threading.Timer(0.2, ephemeral_vault.faults.clear).start()
        ephemeral_vault.rotate()
        with pytest.raises(ProviderUnavailable):
            earlier.result()


def test_outage_with_a_given_fault(
    credential_keeper: CredentialKeeper, ephemeral_vault: EphemeralVault
) -> None:
    with (
        ephemeral_vault.outage(Fault.error(503, "Vault is sealed")),
        pytest.raises(ProviderUnavailable, match="503"),
    ):
        credential_keeper.refresh()


def test_slow_delays_and_ends(
    credential_keeper: CredentialKeeper, ephemeral_vault: EphemeralVault
) -> None:
    started = time.monotonic()
    with ephemeral_vault.slow(0.3):
        credential_keeper.refresh()
    assert time.monotonic() - started >= 0.3
    assert ephemeral_vault.faults.take("GET", "anything") is None


def test_verbs_leave_the_faults_of_a_test_alone(ephemeral_vault: EphemeralVault) -> None:
    ephemeral_vault.faults.add("GET", "elsewhere", Fault.cut())
    with ephemeral_vault.outage():
        pass
    assert ephemeral_vault.faults.take("GET", "elsewhere") is not None


def test_expire_while_vault_is_away_ends_the_service_until_it_is_back(
    rotating_pool: SyncPool, ephemeral_vault: EphemeralVault, credential_events: EventCollector
) -> None:
    before = user(rotating_pool)
    with ephemeral_vault.outage():
        ephemeral_vault.expire()
        credential_events.wait_for(LeaseExpired)
        with pytest.raises(CredentialsExpired), rotating_pool.connection(timeout=0.5):
            pass
    assert answers(rotating_pool)
    assert user(rotating_pool) != before


def test_a_lease_is_renewed_when_the_clock_says_so(
    credential_keeper: CredentialKeeper,
    ephemeral_vault: EphemeralVault,
    credential_events: EventCollector,
) -> None:
    ephemeral_vault.clock.advance(2500.0)
    assert credential_events.wait_for(LeaseRenewed).generation == 1


def test_revoke_is_noticed_at_the_renewal(
    credential_keeper: CredentialKeeper,
    ephemeral_vault: EphemeralVault,
    credential_events: EventCollector,
) -> None:
    credential_events.wait_for(CredentialsPublished)
    ephemeral_vault.revoke()
    ephemeral_vault.clock.advance(2500.0)
    credential_events.wait_for(RenewalFailed)
    assert credential_events.wait_for(CredentialsPublished).generation == 2


@pytest.mark.parametrize("verb", ["revoke", "drop_role", "expire"])
def test_a_service_outlives_the_end_of_its_user(
    rotating_pool: SyncPool, ephemeral_vault: EphemeralVault, ephemeral_postgres: PostgresAccess,
    verb: str,
) -> None:  # fmt: skip
    before = user(rotating_pool)
    getattr(ephemeral_vault, verb)()
    assert before not in ephemeral_postgres.roles()
    assert answers(rotating_pool)
    assert user(rotating_pool) != before


SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND usename IS DISTINCT FROM current_user"
)
AUTOVACUUM = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'autovacuum:%ephemeral_work%'"


def alone(postgres: PostgresAccess, sessions: int) -> None:
    """Wait until there are just so many sessions: those of tests before take a moment to exit."""
    with postgres.admin() as conn:
        wait_until(lambda: len(conn.execute(SESSIONS).fetchall()) == sessions)


def test_cut_connections_ends_those_of_this_test(
    rotating_pool: SyncPool, ephemeral_vault: EphemeralVault, ephemeral_postgres: PostgresAccess
) -> None:
    with ephemeral_postgres.admin() as bystander, rotating_pool.connection() as conn:
        before = current_user(conn)
        alone(ephemeral_postgres, 1)
        assert ephemeral_vault.cut_connections() == 1
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        bystander.execute("SELECT 1")
    assert answers(rotating_pool)
    assert user(rotating_pool) == before


def test_cut_connections_ends_those_of_users_that_are_gone(
    ephemeral_vault: EphemeralVault, ephemeral_postgres: PostgresAccess
) -> None:
    credentials = ephemeral_vault.engine.read(ephemeral_vault.role).data
    with ephemeral_vault.engine.login(credentials) as conn:
        ephemeral_vault.drop_role()
        alone(ephemeral_postgres, 1)
        assert ephemeral_vault.cut_connections() == 1
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")


@pytest.mark.slow
def test_cut_connections_leaves_the_servers_own_processes_alone(
    ephemeral_vault: EphemeralVault, ephemeral_postgres: PostgresAccess
) -> None:
    alone(ephemeral_postgres, 0)
    with ephemeral_postgres.admin() as conn:
        # A minute of work for a worker of autovacuum, which is to come at once.
        conn.execute(
            "CREATE TABLE ephemeral_work (n int) WITH (autovacuum_vacuum_threshold = 0,"
            " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
        )
        try:
            conn.execute("INSERT INTO ephemeral_work SELECT generate_series(1, 100000)")
            conn.execute("DELETE FROM ephemeral_work")
            conn.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            conn.execute("SELECT pg_reload_conf()")
            wait_until(lambda: conn.execute(AUTOVACUUM).fetchall())
            working = conn.execute(AUTOVACUUM).fetchall()
            assert ephemeral_vault.cut_connections() == 0
            assert conn.execute(AUTOVACUUM).fetchall() == working
        finally:
            conn.execute("ALTER SYSTEM RESET autovacuum_naptime")
            conn.execute("SELECT pg_reload_conf()")
            conn.execute("DROP TABLE ephemeral_work")


@pytest.fixture
def reader(
    credentials_file: CredentialsFile, ephemeral_postgres: PostgresAccess
) -> Iterator[SyncPool]:
    conninfo = ephemeral_postgres.conninfo()
    with RotatingConnectionPool(FileProvider(credentials_file), conninfo, min_size=2) as pool:
        pool.wait()
        yield pool


def test_a_rewritten_file_is_in_use(reader: SyncPool, credentials_file: CredentialsFile) -> None:
    for _ in range(5):
        assert credentials_file.rewrite() == user(reader)


def test_a_file_is_written_as_a_sidecar_does(credentials_file: CredentialsFile) -> None:
    before = credentials_file.path.stat()
    text = credentials_file.path.read_text()
    assert [line.partition("=")[0] for line in text.splitlines()] == ["DB_USERNAME", "DB_PASSWORD"]
    credentials_file.rewrite()
    assert credentials_file.path.stat().st_ino != before.st_ino
    assert before.st_mode & 0o077 == 0
    assert list(credentials_file.path.parent.iterdir()) == [credentials_file.path]


def test_nothing_of_a_test_is_left_to_the_next(
    ephemeral_postgres: PostgresAccess,
    ephemeral_vault: EphemeralVault,
    credential_keeper: CredentialKeeper,
) -> None:
    username = credential_keeper.current().credentials.username
    assert username in ephemeral_postgres.roles()
    ephemeral_vault.faults.add("*", "*", Fault.reset(), times=None)
    ephemeral_vault.close()  # as at the end of each test
    assert username not in ephemeral_postgres.roles()
    assert ephemeral_vault.faults.take("GET", "anything") is None
