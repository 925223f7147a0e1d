"""The end of credentials that come from a file: PostgreSQL knows it, and nothing stops for it."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from twins import user_of, wait_until

from ephemeral_creds import CredentialKeeper, FileProvider, RefreshPolicy
from ephemeral_creds.events import CredentialsEnding, CredentialsPublished, PoolRotated
from ephemeral_creds.testing import DatabaseEngine, FakeClock, VaultAgent, dotenv_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg
    from twins import Setup

    from canary import Canary
    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import PostgresServer, VaultServer


class Sidecar:
    """Makes roles that end, and writes them into a file."""

    def __init__(self, admin: psycopg.Connection, path: Path, prefix: str) -> None:
        self.path = path
        self.roles: list[str] = []
        self._admin = admin
        self._prefix = prefix

    def write(self, lifetime: str, *, more: str = "") -> None:
        """Write a new role's credentials; it may log in for `lifetime`."""
        name = f"{self._prefix}_{len(self.roles) + 1}"
        self._admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(name), sql.Literal("written-password")
            )
        )
        self.roles.append(name)
        if lifetime:
            self.extend(lifetime)
        temporary = self.path.with_name("31415926")
        temporary.write_text(f"DB_USERNAME={name}\nDB_PASSWORD=written-password\n{more}")
        temporary.rename(self.path)

    def extend(self, lifetime: str) -> None:
        """Do what an agent has Vault do when it renews the lease: the file stays as it is."""
        row = self._admin.execute("SELECT (now() + %s::interval)::text", [lifetime]).fetchone()
        assert row is not None
        self._admin.execute(
            sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(
                sql.Identifier(self.roles[-1]), sql.Literal(row[0])
            )
        )

    def drop(self) -> None:
        for name in self.roles:
            self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def sidecar(
    postgres: PostgresServer, tmp_path: Path, unique: Callable[[str], str], canary: Canary
) -> Iterator[Sidecar]:
    canary.allow_secret_file(tmp_path)
    with closing(postgres.admin()) as admin:
        sidecar = Sidecar(admin, tmp_path / "creds", unique("filed"))
        yield sidecar
        sidecar.drop()


GRACE = 60.0


def reading(
    setup: Setup, sidecar: Sidecar, *, clock: FakeClock | None = None, **options: Any
) -> RotatingConnectionPool[Any]:
    """Open a pool that follows the sidecar's file."""
    provider = FileProvider(sidecar.path, poll_interval=0.05, clock=clock)
    policy = RefreshPolicy(grace=GRACE)
    keeper = CredentialKeeper(provider, refresh=policy, observers=[setup.events], clock=clock)
    setup.stack.callback(keeper.close)
    keeper.start()
    return setup.pool(keeper, **options)


def ends_in(pool: RotatingConnectionPool[Any]) -> float | None:
    return pool.status().keeper.ends_in


def test_postgresql_is_asked_once_per_generation(setup: Setup, sidecar: Sidecar) -> None:
    sidecar.write("1 hour")
    pool = reading(setup, sidecar)
    wait_until(lambda: 3500 < (ends_in(pool) or 0) <= 3600)
    assert pool.status().expires_in is None, "known is not promised"
    sidecar.write("2 hours")
    setup.events.wait_for(PoolRotated)
    wait_until(lambda: 7100 < (ends_in(pool) or 0) <= 7200)
    with pool.connection() as connection:
        assert user_of(connection) == sidecar.roles[1]


def test_no_limit_in_postgresql_keeps_the_end_in_the_file(setup: Setup, sidecar: Sidecar) -> None:
    sidecar.write("", more="TTL=600")
    pool = reading(setup, sidecar)
    assert 500 < (ends_in(pool) or 0) <= 600


def test_the_role_that_logged_in_counts_not_the_one_acted_as(
    setup: Setup, sidecar: Sidecar
) -> None:
    sidecar.write("")
    owner = sidecar.roles[0]
    sidecar.write("1 hour")
    with closing(setup.server.admin()) as admin:
        admin.execute(
            sql.SQL("GRANT {} TO {}").format(*map(sql.Identifier, (owner, sidecar.roles[1])))
        )
    pool = reading(setup, sidecar, session_role=owner)
    wait_until(lambda: 3500 < (ends_in(pool) or 0) <= 3600)


def test_the_question_leaves_autocommit_as_it_was(setup: Setup, sidecar: Sidecar) -> None:
    sidecar.write("1 hour")
    pool = reading(setup, sidecar, min_size=1, max_size=1)
    wait_until(lambda: ends_in(pool))
    with pool.connection() as connection:
        assert connection.autocommit is False


def test_a_lease_that_the_agent_renews_is_nothing_to_warn_of(
    setup: Setup, sidecar: Sidecar
) -> None:
    clock = FakeClock()
    sidecar.write("15 minutes")
    pool = reading(setup, sidecar, clock=clock)
    wait_until(lambda: ends_in(pool))
    sidecar.extend("1 hour")
    clock.advance(900.0 - GRACE)
    wait_until(lambda: (ends_in(pool) or 0) > 3500)
    assert not setup.events.of(CredentialsEnding)
    assert pool.peak_connections <= 4 + 2


def test_credentials_past_their_end_are_reported_and_stay_in_use(
    setup: Setup, sidecar: Sidecar
) -> None:
    clock = FakeClock()
    sidecar.write("15 minutes")
    pool = reading(setup, sidecar, clock=clock)
    wait_until(lambda: ends_in(pool))
    # As it would be by then: PostgreSQL's clock is not ours to move.
    sidecar.extend(f"{GRACE / 2} seconds")
    clock.advance(900.0 - GRACE)
    setup.events.wait_for(CredentialsEnding)
    sidecar.extend("-1 seconds")
    clock.advance(2 * GRACE)
    assert (ends_in(pool) or 0) < 0
    with pool.connection() as connection:
        assert user_of(connection) == sidecar.roles[0]
    sidecar.write("1 hour")
    setup.events.wait_for(CredentialsPublished, 2)
    wait_until(lambda: (ends_in(pool) or 0) > 3500)
    assert len(setup.events.of(CredentialsEnding)) == 1


@pytest.mark.slow
def test_the_template_of_file_formats_writes_an_end(
    vault: VaultServer,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    tmp_path: Path,
    canary: Canary,
) -> None:
    canary.allow_secret_file(tmp_path)
    page = (Path(__file__).parents[2] / "docs/reference/file-formats.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("DB_EXPIRES_AT="))
    role = unique("ending")
    engine = DatabaseEngine(vault, postgres)
    path = engine.create_role(role, default_ttl="10m", max_ttl="1h")
    policy = engine.admin.write_policy(role, {path: ["read"]})
    target = tmp_path / "secrets" / "db-creds.txt"
    template = dotenv_template(path).replace("{{- end -}}", f"{line}\n{{{{- end -}}}}")
    login = engine.admin.create_approle(role, [policy])
    with closing(FileProvider(target, poll_interval=0.05)) as provider:
        with VaultAgent(vault.address, login, templates={target: template}):
            wait_until(target.exists)
        lease = provider.fetch().lease
    assert lease.duration == math.inf
    assert 500 < lease.announced_duration <= 601
