"""Roles that a server learns of late, and roles that end before their lease does."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from minting import PATIENCE
from psycopg import sql
from replicas import Replica
from twins import TWINS, Setup

from ephemeral_creds import RefreshPolicy, TokenAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.events import CandidateDiscarded, CredentialsPublished, LoginRejected
from ephemeral_creds.lifecycle.policy import Tuning
from ephemeral_creds.testing import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import DatabaseEngine


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary: PostgresServer) -> Iterator[Replica]:
    with Replica(primary) as server:
        yield server


@pytest.fixture(params=list(TWINS))
def lagging(
    request: pytest.FixtureRequest,
    primary: PostgresServer,
    replica: Replica,
    unique: Callable[[str], str],
) -> Iterator[Setup]:
    """Make roles in the primary; a pool on the replica has to wait for them."""
    with ExitStack() as stack:
        yield Setup(TWINS[request.param](), primary, unique("lagging"), stack)


def until(done: Callable[[], bool]) -> Iterator[None]:
    """Repeat a loop's body until `done`, for some time at most."""
    give_up_at = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < give_up_at
        yield


def log_in(pool: RotatingConnectionPool[Any]) -> str:
    """Make the pool log in once more, and return as whom."""
    connection = pool.getconn(timeout=PATIENCE)
    # Not by a query: the role of one that was opened ahead may be gone.
    user = str(connection.info.user)
    connection.close()
    pool.putconn(connection)
    return user


class TestReplica:
    def test_r10_a_start_mints_one_role(self, lagging: Setup, replica: Replica) -> None:
        options: dict[str, Any] = {"conninfo": replica.conninfo(), "min_size": 1}
        with replica.behind():
            pool = lagging.pool(refresh=RefreshPolicy(), wait=False, **options)
            lagging.events.wait_for(LoginRejected)
        assert log_in(pool) == lagging.role(1)
        assert lagging.provider.calls.count("fetch") == 1

    def test_r9_a_rotation_waits_for_it_and_no_checkout_fails(
        self, lagging: Setup, replica: Replica
    ) -> None:
        policy = RefreshPolicy(_tuning=Tuning(proof_retry=0.01, proof_attempts=2))
        pool = lagging.pool(conninfo=replica.conninfo(), min_size=1, refresh=policy)
        refused = len(lagging.events.of(LoginRejected))
        enough = refused + policy.tuning.proof_attempts
        with replica.behind():
            lagging.provider.change()
            for _ in until(lambda: len(lagging.events.of(LoginRejected)) >= enough):
                assert log_in(pool) == lagging.role(1)
        for _ in until(lambda: len(lagging.events.of(CredentialsPublished)) == 2):
            assert log_in(pool) in (lagging.role(1), lagging.role(2))
        assert not lagging.events.of(CandidateDiscarded)
        assert lagging.provider.calls.count("fetch") == 2


class TestRolesThatEndEarly:
    """More than once within a minute: what has worked before is new trouble each time."""

    @pytest.mark.parametrize("end", ["DROP ROLE {}", "ALTER ROLE {} VALID UNTIL '2001-01-01'"])
    def test_r10_each_is_replaced_as_soon_as_the_limiter_allows(
        self, setup: Setup, end: str
    ) -> None:
        pool = setup.pool(min_size=1, refresh=RefreshPolicy(mint_burst=4))
        for number in (1, 2, 3):
            assert log_in(pool) == setup.role(number)
            setup.provider._admin.execute(sql.SQL(end).format(sql.Identifier(setup.role(number))))
            began = time.monotonic()
            for user in iter(lambda: log_in(pool), setup.role(number + 1)):
                assert user == setup.role(number)
            # The delay after one that never worked.
            assert time.monotonic() - began < Tuning().config_retry / 2
        assert setup.provider.calls.count("fetch") == 4

    @pytest.mark.slow
    def test_r10_a_lease_that_is_renewed_but_not_in_postgresql(
        self, setup: Setup, engine: DatabaseEngine, unique: Callable[[str], str]
    ) -> None:
        name = unique("forgetful")
        engine.create_role(name, default_ttl="4s", max_ttl="1h", renew_statements=["SELECT 1"])
        provider = VaultDynamicProvider(
            name,
            auth=TokenAuth(engine.vault.root_token),
            config=VaultConfig(engine.vault.address),
        )
        policy = RefreshPolicy(renew_at=0.5, margin=1.0, mint_interval=1.0)
        pool = setup.pool(provider, min_size=1, refresh=policy)
        slowest, since, users = 0.0, time.monotonic(), set[str]()
        for _ in until(lambda: len(users) == 3):
            users.add(log_in(pool))
            slowest, since = max(slowest, time.monotonic() - since), time.monotonic()
        assert slowest < Tuning().config_retry / 2
