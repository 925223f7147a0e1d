"""What a pool tells health endpoints and metrics, in each state that it can be in."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from minting import BRIEF, PATIENCE, RoleProvider
from twins import EAGER, Worker, wait_until

from ephemeral_creds import CredentialKeeper, NoCredentials, RefreshPolicy
from ephemeral_creds.events import (
    CredentialsPublished,
    FetchFailed,
    LeaseExpired,
    LeaseRenewed,
    LoginRejected,
    RenewalFailed,
)
from ephemeral_creds.exceptions import ProviderUnavailable

if TYPE_CHECKING:
    from twins import Setup

    from ephemeral_creds.testing import PostgresServer

AWAY: list[Exception] = [ProviderUnavailable("vault is sealed")] * 1000


class TestReady:
    def test_not_before_it_is_open(self, setup: Setup) -> None:
        status = setup.make(name="orders").status()
        assert (status.name, status.ready, status.generation) == ("orders", False, 0)
        assert (status.keeper.state, status.expires_in, status.connections) == ("new", None, {})

    def test_not_before_credentials(self, setup: Setup) -> None:
        setup.provider.failures["fetch"] = AWAY.copy()
        pool = setup.pool(wait=False)
        setup.events.wait_for(FetchFailed)
        status = pool.status()
        assert (status.ready, status.generation, status.connections) == (False, 0, {})
        assert status.keeper.state == "acquiring"
        assert "vault is sealed" in str(status.keeper.last_error)
        stats = pool.get_stats()
        assert (stats["lease_generation"], stats["lease_mints"]) == (0, 0)
        assert "lease_expires_in" not in stats
        setup.provider.failures["fetch"].clear()
        pool.wait(PATIENCE)
        assert pool.status().ready

    def test_while_it_serves(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, max_size=5)
        status = pool.status()
        assert status.ready
        assert (status.generation, status.connections, status.stale) == (1, {1: 2}, 0)
        assert (status.available, status.waiting, status.peak) == (2, 0, 2)
        assert (status.min_size, status.max_size, status.suspect) == (2, 5, False)
        assert status.last_error is status.keeper.last_error is None
        assert status.expires_in is not None
        assert 3500 < status.expires_in <= 3600
        assert (status.keeper.state, status.keeper.username) == ("serving", setup.role(1))

    def test_with_everything_borrowed(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, max_size=1)
        with pool.connection():
            status = pool.status()
            assert (status.ready, status.available, status.connections) == (True, 0, {1: 1})

    def test_while_it_moves(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, max_size=2)
        with pool.connection():
            setup.rotate(2)
            # The idle one first; the other one stays for as long as it is borrowed.
            wait_until(lambda: pool.status().connections.get(1) == 1)
            status = pool.status()
            assert (status.ready, status.generation, status.stale) == (True, 2, 1)
            assert status.connections[1] == 1
            assert status.keeper.retired == (1,)
            assert pool.get_stats()["connections_stale"] == 1
        setup.revoked(1)
        wait_until(lambda: pool.status().connections == {2: 2})
        assert pool.status().keeper.retired == ()

    def test_an_outage_of_vault_alone_changes_nothing(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        setup.provider.failures["fetch"] = AWAY.copy()
        setup.provider.change()
        setup.events.wait_for(FetchFailed, 2)
        status = pool.status()
        assert status.ready
        assert status.keeper.ready
        assert status.keeper.failed_fetches >= 2
        assert "vault is sealed" in str(status.keeper.last_error)

    def test_an_outage_that_outlasts_the_lease_leaves_the_pool_ready_while_sessions_live(
        self, setup: Setup
    ) -> None:
        clock = setup.clock()
        setup.provider.duration = 60.0
        pool = setup.pool(min_size=1)
        setup.provider.failures |= {"fetch": AWAY.copy(), "renew": AWAY.copy()}
        clock.advance(61.0)
        setup.events.wait_for(LeaseExpired)
        status = pool.status()
        assert status.ready
        assert not status.keeper.ready
        assert status.expires_in == -1.0
        assert status.suspect
        assert pool.get_stats()["lease_expires_in"] == -1

    def test_not_with_expired_credentials_and_no_session(self, setup: Setup) -> None:
        clock = setup.clock()
        setup.provider.duration = 60.0
        pool = setup.pool(min_size=0, max_size=2)
        setup.provider.failures |= {"fetch": AWAY.copy(), "renew": AWAY.copy()}
        clock.advance(61.0)
        setup.events.wait_for(LeaseExpired)
        assert not pool.status().ready
        waiting = Worker(pool.getconn, timeout=PATIENCE)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(NoCredentials, match="expired"):
            pool.getconn(timeout=BRIEF)
        setup.provider.duration = 3600.0
        setup.provider.failures["fetch"].clear()

        def is_back() -> bool:
            # An attempt that was under way may fail after this, and plan the next from then on.
            clock.advance(1.0)
            return len(setup.events.of(CredentialsPublished)) == 2

        wait_until(is_back)
        pool.putconn(cast("Any", waiting.get()))
        with pool.connection(PATIENCE):
            assert pool.status().ready

    def test_not_while_postgresql_is_away(self, setup: Setup, own_postgres: PostgresServer) -> None:
        provider = RoleProvider(own_postgres, setup.prefix)
        pool = setup.pool(provider, refresh=EAGER, min_size=2, conninfo=own_postgres.conninfo())
        assert pool.status().ready
        own_postgres.stop(immediate=True)
        pool.check()
        # Those that are logging in count as well, until they have failed.
        wait_until(lambda: (found := pool.status()).last_error and found.connections == {})
        status = pool.status()
        assert not status.ready
        # The keeper has nothing to complain of.
        assert status.keeper.ready
        with pytest.raises(psycopg.OperationalError):
            pool.getconn(timeout=BRIEF)
        own_postgres.start()
        wait_until(lambda: pool.status().ready)
        wait_until(lambda: pool.status().last_error is None)

    def test_not_after_close(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        pool.close(PATIENCE)
        status = pool.status()
        assert (status.ready, status.connections, status.available) == (False, {}, 0)
        assert status.keeper.state == "closed"
        assert pool.get_stats()["lease_revocations"] == 1


class TestCounts:
    def test_mints_and_revocations(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        for generation in (2, 3):
            setup.rotate(generation)
            setup.revoked(generation - 1)
        stats = pool.get_stats()
        assert stats["lease_generation"] == 3
        assert (stats["lease_mints"], stats["lease_revocations"]) == (3, 2)
        assert (stats["lease_renewals"], stats["lease_rejected_logins"]) == (0, 0)
        keeper = pool.status().keeper
        assert (keeper.fetches, keeper.grants, keeper.rotations) == (3, 3, 2)
        assert keeper.failed_revocations == 0

    def test_renewals(self, setup: Setup) -> None:
        clock = setup.clock()
        setup.provider.duration = 60.0
        setup.provider.failures["renew"] = [ProviderUnavailable("away")]
        pool = setup.pool(min_size=1)
        clock.advance(30.0)
        setup.events.wait_for(RenewalFailed)
        for pause, count in ((1.0, 1), (30.0, 2), (30.0, 3)):
            clock.advance(pause)
            setup.events.wait_for(LeaseRenewed, count)
        stats = pool.get_stats()
        assert stats["lease_renewals"] == 3
        assert pool.status().keeper.failed_renewals == 1
        assert stats["lease_mints"] == 1

    def test_refused_logins(self, setup: Setup) -> None:
        refresh = RefreshPolicy(mint_interval=0.0, retry_initial=0.01, retry_max=0.01)
        pool = setup.pool(min_size=1, refresh=refresh)
        setup.provider.login = "NOLOGIN"
        setup.provider.change()
        setup.events.wait_for(LoginRejected, refresh.tuning.proof_attempts)
        stats = pool.get_stats()
        assert stats["lease_rejected_logins"] >= refresh.tuning.proof_attempts
        # A candidate that fails is not the pool's failure, and it serves on.
        status = pool.status()
        assert (status.ready, status.last_error, status.generation) == (True, None, 1)

    def test_two_pools_of_one_keeper_tell_the_same_of_it(self, setup: Setup) -> None:
        with CredentialKeeper(setup.provider, refresh=EAGER, observers=[setup.events]) as keeper:
            pools = [setup.pool(keeper, min_size=n) for n in (1, 2)]
            setup.rotate(2)
            setup.revoked(1)
            wait_until(lambda: [p.status().connections for p in pools] == [{2: 1}, {2: 2}])
            assert [p.get_stats()["lease_mints"] for p in pools] == [2, 2]
            for pool in pools:
                pool.close()

    def test_pop_stats_sets_the_pools_counters_to_zero(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1)
        with pool.connection():
            pass
        assert pool.pop_stats()["requests_num"] == 1
        stats = pool.get_stats()
        assert stats.get("requests_num", 0) == 0
        assert stats["lease_mints"] == 1


def test_the_status_is_plain_and_has_no_secret(setup: Setup) -> None:
    status = setup.pool(min_size=1).status()
    assert pickle.loads(pickle.dumps(status)) == status
    assert "minted-password" not in repr(status)
