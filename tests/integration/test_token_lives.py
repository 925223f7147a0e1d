"""Vault tokens of every kind: what becomes of them, and of the credentials made under them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import Events
from psycopg import sql
from twins import wait_until

from ephemeral_creds import (
    AppRoleAuth,
    CredentialKeeper,
    LeaseLost,
    RotatingConnectionPool,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
    VaultStaticProvider,
)
from ephemeral_creds.events import CredentialsPublished
from ephemeral_creds.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds import AuthMethod
    from ephemeral_creds.testing import DatabaseEngine

    Unique = Callable[[str], str]


@pytest.fixture
def role(engine: DatabaseEngine, unique: Unique) -> str:
    name = unique("lives")
    engine.create_role(name)
    return name


@pytest.fixture
def make(engine: DatabaseEngine, role: str) -> Iterator[Callable[..., VaultDynamicProvider]]:
    with contextlib.ExitStack() as stack:

        def make(auth: AuthMethod) -> VaultDynamicProvider:
            config = VaultConfig(engine.vault.address, read_timeout=20)
            provider = VaultDynamicProvider(role, auth=auth, config=config)
            stack.callback(provider.close)
            return provider

        yield make


def test_a_token_that_cannot_be_renewed_ends_its_credentials(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    policies = [engine.policy(role)]
    token = engine.admin.create_token(policies, ttl="20m", renewable=False)
    lease = make(TokenAuth(token)).fetch().lease
    assert 1100 < lease.duration <= 1200
    assert not lease.renewable


def test_a_token_with_an_explicit_max_ttl_is_extended_to_it_and_then_replaced(
    engine: DatabaseEngine,
    make: Callable[..., VaultDynamicProvider],
    role: str,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    admin, policies = engine.admin, [engine.policy(role)]
    path = tmp_path / "token"
    first = admin.create_token(policies, ttl="5m", explicit_max_ttl="10m")
    path.write_text(first.reveal())
    provider = make(TokenAuth(path=path))
    grant = provider.fetch()
    assert 290 < grant.lease.duration <= 300
    assert grant.lease.renewable
    # Its credentials could have an hour; they get the rest of the ten minutes, for the last time.
    lease = provider.renew(grant)
    assert 570 < lease.duration <= 600
    assert not lease.renewable
    path.write_text(admin.create_token(policies, ttl="1h").reveal())
    successor = provider.fetch()
    assert successor.lease.duration > 3500
    # The first one is not ours: its credentials are good to their end.
    assert admin.request("GET", "auth/token/lookup-self", token=first).status == 200
    provider.revoke(grant)
    provider.revoke(successor)


def test_a_child_dies_with_its_parent_and_a_file_brings_the_next(
    engine: DatabaseEngine,
    make: Callable[..., VaultDynamicProvider],
    role: str,
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    admin, policies = engine.admin, [engine.policy(role)]
    minter = admin.write_policy(
        f"parent-{role}",
        {"auth/token/create": ["update"], f"database/creds/{role}": ["read"]},
    )
    parent = admin.create_token([minter, *policies])
    child = admin.create_token(policies, ttl="20m", parent=parent, orphan=False)
    path = tmp_path / "token"
    path.write_text(f"{child.reveal()}\n")
    provider = make(TokenAuth(path=path))
    grant = provider.fetch()
    admin.revoke_token(parent)
    with pytest.raises(LeaseLost, match="is expired or revoked"):
        provider.renew(grant)
    # What an agent does that keeps the file fresh.
    path.write_text(admin.create_token(policies, ttl="20m").reveal())
    provider.revoke(provider.fetch())


def test_an_orphan_outlives_its_parent(
    engine: DatabaseEngine, make: Callable[..., VaultDynamicProvider], role: str
) -> None:
    admin, policies = engine.admin, [engine.policy(role)]
    # To make orphans takes root's rights.
    parent = admin.create_token(["root"], ttl="1h")
    provider = make(TokenAuth(admin.create_token(policies, ttl="20m", orphan=True, parent=parent)))
    grant = provider.fetch()
    admin.revoke_token(parent)
    assert provider.renew(grant).duration == pytest.approx(3600, abs=100)


def test_a_given_token_is_kept_alive_between_two_rotations_of_a_static_role(
    engine: DatabaseEngine, unique: Unique
) -> None:
    """Its password changes once a day; a periodic token of 20 minutes must not die meanwhile."""
    name, static = unique("static_app"), unique("static")
    with engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    engine.create_static_role(static, name)
    policy = engine.admin.write_policy(
        f"read-{static}", {f"{engine.mount}/static-creds/{static}": ["read"]}
    )
    token = engine.admin.create_token([policy], period="20m")
    clock = FakeClock()
    config = VaultConfig(engine.vault.address, read_timeout=20)
    provider = VaultStaticProvider(static, auth=TokenAuth(token), config=config, clock=clock)
    with contextlib.closing(provider):
        for _ in range(3):
            lease = provider.fetch().lease
            assert lease.rotates_in is not None
            assert lease.rotates_in > 80_000
            assert 700 < lease.ask_again_in < 1000
            sent = provider.requests_sent
            clock.advance(lease.ask_again_in)
            provider.fetch()
            # The read itself, and what gives the token its period again.
            assert provider.requests_sent == sent + 2


@pytest.mark.slow
def test_a_token_that_is_revoked_under_load(engine: DatabaseEngine, unique: Unique) -> None:
    """Its roles are dropped at once; with a session_role no query notices, and we log in again."""
    owner, table, role = unique("owner"), unique("t"), unique("revoked")
    with engine.postgres.admin() as conn:
        conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
        conn.execute(sql.SQL("CREATE TABLE {} (n int)").format(sql.Identifier(table)))
        conn.execute(
            sql.SQL("ALTER TABLE {} OWNER TO {}").format(*map(sql.Identifier, (table, owner)))
        )
    engine.create_role(role, grants=[f'GRANT {owner} TO "{{{{name}}}}";'])
    how = engine.admin.create_approle(role, [engine.policy(role)], token_ttl="1h")
    config = VaultConfig(engine.vault.address, read_timeout=20)
    auth, clock = AppRoleAuth(how.role_id, how.secret_id), FakeClock()
    provider = VaultDynamicProvider(role, auth=auth, config=config, clock=clock)
    events, failures, queries = Events(), list[str](), 0
    over = threading.Event()
    address = f"host={engine.postgres.host} port={engine.postgres.port} dbname=postgres"
    keeper = CredentialKeeper(provider, observers=[events], clock=clock)
    pool = RotatingConnectionPool(keeper, address, min_size=3, max_size=3, session_role=owner)

    def work() -> None:
        nonlocal queries
        while not over.is_set():
            try:
                with pool.connection() as conn:
                    conn.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
                    queries += 1
            except psycopg.Error as error:
                failures.append(str(error))
            time.sleep(0.01)

    with keeper, pool:
        pool.wait()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            grant = keeper.current()
            engine.admin.revoke_token(grant.origin.session.token.value)  # type: ignore[attr-defined]
            wait_until(lambda: queries > 50 or failures)
            # The next renewal is refused, if no login has been.
            clock.advance(2400.0)
            events.wait_for(CredentialsPublished, 2)
            new = keeper.current()
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
    assert failures == []
    assert new.credentials.username != grant.credentials.username
    assert engine.mints(role) == 2
    # Vault ends the leases of a token when it gets to it.
    wait_until(lambda: engine.leases(role) == [])
