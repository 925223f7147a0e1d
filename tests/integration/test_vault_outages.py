"""A pool under load while its Vault goes through what a Vault goes through: no failed query.

On a real server of the test's own, which keeps its storage. At the end of each story the pool is
closed, and no role is left in PostgreSQL.

A role that Vault takes away because its time has come is not what most stories are about, however
long a busy machine takes for them: their leases last for an hour, and the keeper's clock is moved
to where one is renewed. Where time has to pass in Vault, too, renewals come long before the end.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from load import Load
from minting import Events
from twins import wait_until

from ephemeral_creds import (
    AppRoleAuth,
    CredentialKeeper,
    ProviderUnavailable,
    RefreshPolicy,
    RotatingConnectionPool,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
    retry_on_rotation,
)
from ephemeral_creds.events import (
    CredentialsPublished,
    Event,
    LeaseRenewed,
    LeaseRevoked,
    RenewalFailed,
)
from ephemeral_creds.lifecycle.policy import Tuning
from ephemeral_creds.testing import DatabaseEngine, FakeClock, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from persistent_vault import PersistentVaultServer

pytestmark = pytest.mark.slow

PATIENCE = 30.0
HALF_AN_HOUR = 1800.0
# For leases of seconds; the defaults are for a minute and more.
QUICK = RefreshPolicy(
    renew_at=0.5,
    margin=0.5,
    retry_initial=0.1,
    retry_max=0.5,
    mint_interval=0.2,
    proof_timeout=2.0,
    grace=0.2,
    _tuning=Tuning(config_retry=0.5),
)
# A second after the start of a lease, at least one of its whole seconds is over, and what is left
# of eighteen is told from all of it.
CAPPED = "18s"
EARLY = replace(QUICK, renew_at=0.07)


class Story:
    """A pool under load.

    With `retry`, for what takes a role away from under a session, transactions may be repeated.

    Attributes:
        seen: what its keeper told.
    """

    def __init__(
        self,
        engine: DatabaseEngine,
        role: str,
        *,
        clock: FakeClock | None = None,
        policy: RefreshPolicy = QUICK,
        retry: bool = False,
        workers: int = 3,
        **login: Any,
    ) -> None:
        self.engine = engine
        self.role = role
        self.seen = Events()
        self._clock = clock
        how = engine.admin.create_approle(role, [engine.policy(role)], **login)
        provider = VaultDynamicProvider(
            role,
            auth=AppRoleAuth(how.role_id, how.secret_id),
            config=VaultConfig(engine.vault.address, read_timeout=20),
            clock=clock,
        )
        self.keeper = CredentialKeeper(provider, refresh=policy, observers=[self.seen], clock=clock)
        self.pool: RotatingConnectionPool[psycopg.Connection[Any]] = RotatingConnectionPool(
            self.keeper, engine.postgres.conninfo(), min_size=2, max_size=4, timeout=PATIENCE
        )
        self.keeper.start()
        self.pool.open(wait=True)
        query = retry_on_rotation(self.pool)(self._query) if retry else self._query
        self.load = Load(query, workers, pause=0.02)
        self.load.__enter__()

    def _query(self) -> None:
        with self.pool.connection() as connection:
            connection.execute("SELECT current_user")

    def passes(self, seconds: float, kind: type[Event]) -> None:
        """Move the keeper's clock, and wait until that has led to one more event of a kind."""
        assert self._clock is not None
        seen = len(self.seen.of(kind))
        self._clock.advance(seconds)
        self.seen.wait_for(kind, seen + 1)

    def end(self) -> None:
        wait_until(lambda: self.load.succeeded > 50 or self.load.failures)
        self.load.__exit__()
        self.pool.close()
        self.keeper.close()
        assert self.load.failures == []
        wait_until(lambda: roles_of(self.engine, self.role) == [])


def roles_of(engine: DatabaseEngine, role: str) -> list[str]:
    return [name for name in engine.postgres.roles() if f"-{role[:8]}-" in name]


@pytest.fixture(scope="module")
def durable_engine(durable: PersistentVaultServer, postgres: PostgresServer) -> DatabaseEngine:
    return DatabaseEngine(durable, postgres)


@pytest.fixture
def tell(
    durable_engine: DatabaseEngine, unique: Callable[[str], str]
) -> Iterator[Callable[..., Story]]:
    """Begin stories; at the end of the test each has gone well."""
    with ExitStack() as stack:

        def begin(ttl: str = "1h", max_ttl: str = "24h", **options: Any) -> Story:
            role = unique("out")
            durable_engine.create_role(role, default_ttl=ttl, max_ttl=max_ttl)
            story = Story(durable_engine, role, **options)
            stack.callback(story.end)
            return story

        yield begin


def test_vault_is_restarted_with_its_storage(
    durable: PersistentVaultServer, tell: Callable[..., Story]
) -> None:
    story = tell(clock=FakeClock())
    mints = story.keeper.status().grants
    durable.stop()
    story.passes(HALF_AN_HOUR, RenewalFailed)
    durable.start()
    story.passes(1.0, LeaseRenewed)
    story.passes(HALF_AN_HOUR, LeaseRenewed)
    assert story.keeper.status().grants == mints


def test_vault_crashes_for_longer_than_the_lease_lives(
    durable: PersistentVaultServer, tell: Callable[..., Story]
) -> None:
    # At its start Vault drops the roles whose time has come, also those in use.
    story = tell("2s", retry=True)
    durable.kill()
    before = {kind: len(story.seen.of(kind)) for kind in (CredentialsPublished, LeaseRenewed)}
    time.sleep(3.0)
    durable.start()
    # Open connections kept working; those of leases that Vault has ended are replaced.
    for kind, count in before.items():
        story.seen.wait_for(kind, count + 1)


def test_vault_is_sealed_and_unsealed(
    durable: PersistentVaultServer, tell: Callable[..., Story]
) -> None:
    story = tell(clock=FakeClock())
    durable.seal()
    story.passes(HALF_AN_HOUR, RenewalFailed)
    story.passes(1.0, RenewalFailed)
    durable.unseal()
    story.passes(1.0, LeaseRenewed)
    story.passes(HALF_AN_HOUR, LeaseRenewed)


def test_leases_are_revoked_by_prefix(tell: Callable[..., Story]) -> None:
    story = tell(retry=True)
    for rotations in (1, 2):
        story.engine.admin.revoke_prefix(f"database/creds/{story.role}")
        story.seen.wait_for(CredentialsPublished, 1 + rotations)


def test_vaults_connection_to_the_database_breaks(tell: Callable[..., Story]) -> None:
    story = tell(clock=FakeClock())
    admin, path = story.engine.admin, f"database/config/{story.engine.connection}"
    good = admin.call("GET", path).data["connection_details"]["connection_url"]
    port = f":{story.engine.postgres.port}/"
    broken = {"connection_url": good.replace(port, ":1/"), "verify_connection": False}
    admin.call("POST", path, broken)
    try:
        story.passes(HALF_AN_HOUR, RenewalFailed)
    finally:
        password = story.engine.postgres.password.reveal()
        admin.call("POST", path, {"connection_url": good, "password": password})
    story.passes(1.0, LeaseRenewed)
    story.passes(HALF_AN_HOUR, LeaseRenewed)


def test_tokens_end_before_leases(tell: Callable[..., Story]) -> None:
    story = tell(policy=EARLY, token_ttl=CAPPED, token_max_ttl=CAPPED)
    story.seen.wait_for(CredentialsPublished, 3)
    story.seen.wait_for(LeaseRevoked, 2)


def test_fifty_rotations(tell: Callable[..., Story]) -> None:
    stories = [tell(CAPPED, CAPPED, policy=EARLY, workers=1) for _ in range(10)]
    for story in stories:
        # The first one is not a rotation.
        story.seen.wait_for(CredentialsPublished, 6)
    for story in stories:
        story.end()
        assert story.keeper.status().rotations >= 5
        # A grant that was on its way when the keeper closed counts, and has been revoked.
        assert story.keeper.status().grants == story.engine.mints(story.role)


def test_a_rate_limit_says_when_to_come_again(
    durable_engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    role, admin = unique("quota"), durable_engine.admin
    durable_engine.create_role(role)
    quota = {"path": f"database/creds/{role}", "rate": 1, "interval": "60s"}
    admin.call("POST", "sys/quotas/config", {"enable_rate_limit_response_headers": True})
    admin.call("POST", f"sys/quotas/rate-limit/{role}", quota)
    try:
        provider = VaultDynamicProvider(
            role,
            auth=TokenAuth(durable_engine.vault.root_token),
            config=VaultConfig(durable_engine.vault.address),
        )
        grant = provider.fetch()
        with pytest.raises(ProviderUnavailable, match="rate limit quota exceeded") as caught:
            provider.fetch()
        assert caught.value.status == 429
        assert caught.value.retry_after is not None
        assert 0 <= caught.value.retry_after <= 60
        provider.revoke(grant)
        provider.close()
    finally:
        admin.call("DELETE", f"sys/quotas/rate-limit/{role}")
