"""Bad input and broken worlds: each row of docs/reference/errors.md's table, on real servers.

Every row is asked for in both ways that a service meets it: ``open(wait=True)`` at its start, and
``connection()`` at its first query. The error has to be of the class that the table names, and its
message has to say what failed, where, and what to do.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import psycopg_pool
import pytest
from twins import wait_until

from ephemeral_creds import (
    AccessDenied,
    AppRoleAuth,
    CheckoutFailed,
    ConfigurationError,
    CredentialKeeper,
    CredentialProvider,
    CredentialsExpired,
    DatabaseUnreachable,
    EphemeralCredsError,
    FilePolicy,
    FileProvider,
    FixedProvider,
    KubernetesAuth,
    LoginRefused,
    NotReady,
    RotatingConnectionPool,
    ServerRefused,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.events import FetchFailed, LeaseExpired, LoginRejected, Problem
from ephemeral_creds.testing import DatabaseEngine, FakeClock
from service_accounts import TokenReviewServer, create_kubernetes_role, make_service_account_jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canary import Canary
    from ephemeral_creds.events import Event
    from ephemeral_creds.testing import PostgresServer, VaultServer

pytestmark = pytest.mark.slow

GENEROUS = 30.0  # seconds to wait for what has to come
BRIEF = 0.5  # seconds to ask for what cannot come, after its reason has been seen
NOBODY = 65534

Pool = RotatingConnectionPool[psycopg.Connection]


class Seen:
    """An observer that lets a test wait for an event."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Problem]) -> None:
        with self._changed:
            seen = self._changed.wait_for(
                lambda: any(isinstance(e, kind) for e in self._events), GENEROUS
            )
        assert seen, f"no {kind.__name__}"


class World:
    """A pool on the way to fail, and how it is asked."""

    def __init__(self, ask: str) -> None:
        self.seen = Seen()
        self._ask = ask
        self._pools: list[Pool] = []

    def open(
        self,
        provider: CredentialProvider,
        conninfo: str,
        *,
        max_size: int | None = None,
    ) -> Pool:
        pool = RotatingConnectionPool(
            provider,
            conninfo,
            name="orders",
            min_size=1,
            max_size=max_size,
            observers=[self.seen],
        )
        self._pools.append(pool)
        pool.open()
        return pool

    def at_once(self, provider: CredentialProvider, conninfo: str) -> EphemeralCredsError:
        """Return the error that does not wait for the end of a generous timeout."""
        return self._asked(self.open(provider, conninfo), GENEROUS)

    def after(
        self, kind: type[Problem], provider: CredentialProvider, conninfo: str
    ) -> EphemeralCredsError:
        """Return the error of a pool whose keeper has reported a `kind`."""
        pool = self.open(provider, conninfo)
        self.seen.wait_for(kind)
        return self._asked(pool, BRIEF)

    def after_a_connect(self, provider: CredentialProvider, conninfo: str) -> EphemeralCredsError:
        """Return the error of a pool that has failed to connect."""
        pool = self.open(provider, conninfo)
        wait_until(lambda: pool.status().last_error)
        return self._asked(pool, BRIEF)

    def _asked(self, pool: Pool, timeout: float) -> EphemeralCredsError:
        ask = pool.wait if self._ask == "open" else pool.getconn
        with pytest.raises(EphemeralCredsError) as caught:
            ask(timeout)
        # What existing code catches.
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert isinstance(caught.value, CheckoutFailed)
        return caught.value

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


@pytest.fixture(params=["open", "connection"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param)
    yield world
    world.close()


# What to do is looked for in one way only.
asked_once = pytest.mark.parametrize("world", ["connection"], indirect=True)


def vault_provider(
    engine: DatabaseEngine,
    role: str,
    policies: list[str] | None = None,
    clock: FakeClock | None = None,
) -> VaultDynamicProvider:
    """Log in by an AppRole that may use `role`, or has `policies` instead."""
    given = [engine.policy(role)] if policies is None else policies
    how = engine.admin.create_approle(f"login-{role}", given)
    return VaultDynamicProvider(
        role,
        auth=AppRoleAuth(how.role_id, how.secret_id),
        config=VaultConfig(engine.vault.address, read_timeout=20),
        clock=clock,
    )


def says(error: Exception, *parts: str) -> None:
    for part in parts:
        assert part in str(error)


# --- Vault: what is set up wrong ----------------------------------------------------------------


def test_a_role_that_does_not_exist(world: World, engine: DatabaseEngine) -> None:
    error = world.at_once(vault_provider(engine, "misspelt"), engine.postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, "database/creds/misspelt", engine.vault.address, "unknown role")
    says(error, "check that there is a database engine at 'database' with a role 'misspelt'")


def test_a_policy_that_is_missing(
    world: World, engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    role = unique("role")
    engine.create_role(role)
    provider = vault_provider(engine, role, ["default"])
    error = world.at_once(provider, engine.postgres.conninfo())
    assert isinstance(error, AccessDenied)
    says(error, f"database/creds/{role}", engine.vault.address, "permission denied")
    says(error, f'policies need: path "database/creds/{role}" {{ capabilities = ["read"] }}')


def test_a_login_that_vault_refuses(
    world: World, engine: DatabaseEngine, role: str, tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    (tmp_path / "jwt").write_text(make_service_account_jwt("other-app").reveal())
    provider = VaultDynamicProvider(
        role,
        auth=KubernetesAuth(role, jwt_path=tmp_path / "jwt"),
        config=VaultConfig(engine.vault.address),
    )
    with TokenReviewServer() as reviewer:
        create_kubernetes_role(engine.admin, role, reviewer, [engine.policy(role)])
        error = world.at_once(provider, engine.postgres.conninfo())
    assert isinstance(error, AccessDenied)
    says(error, f"Kubernetes login for role '{role}' at auth/kubernetes", engine.vault.address)
    says(error, "the role is bound to this pod's namespace and service account")


def no_service_account(engine: DatabaseEngine, role: str, folder: Path) -> VaultDynamicProvider:
    return VaultDynamicProvider(
        role,
        auth=KubernetesAuth(role, jwt_path=folder / "none"),
        config=VaultConfig(engine.vault.address),
    )


def test_no_service_account_token(
    world: World, engine: DatabaseEngine, role: str, tmp_path: Path
) -> None:
    provider = no_service_account(engine, role, tmp_path)
    error = world.at_once(provider, engine.postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, str(tmp_path / "none"), "a service account's token", "No such file")


@asked_once
def test_no_service_account_token_says_what_to_do(
    world: World, engine: DatabaseEngine, role: str, tmp_path: Path
) -> None:
    provider = no_service_account(engine, role, tmp_path)
    error = world.at_once(provider, engine.postgres.conninfo())
    says(error, "jwt_path", "automountServiceAccountToken")


# --- Vault: if it is unreachable ----------------------------------------------------------------


@pytest.fixture
def own_engine(own_vault: VaultServer, postgres: PostgresServer) -> DatabaseEngine:
    engine = DatabaseEngine(own_vault, postgres)
    engine.create_role("app")
    return engine


def sealed(world: World, engine: DatabaseEngine) -> EphemeralCredsError:
    provider = vault_provider(engine, "app")
    engine.vault.seal()
    return world.after(FetchFailed, provider, engine.postgres.conninfo())


def away(world: World, engine: DatabaseEngine) -> EphemeralCredsError:
    provider = vault_provider(engine, "app")
    engine.vault.stop()
    return world.after(FetchFailed, provider, engine.postgres.conninfo())


def test_a_vault_that_is_sealed(world: World, own_engine: DatabaseEngine) -> None:
    error = sealed(world, own_engine)
    assert isinstance(error, NotReady)
    says(error, "database/creds/app", own_engine.vault.address)
    says(error, "ProviderUnavailable", "HTTP 503", "Vault is sealed")


@asked_once
def test_a_vault_that_is_sealed_says_what_to_do(world: World, own_engine: DatabaseEngine) -> None:
    says(sealed(world, own_engine), "unseal")


def test_a_vault_that_is_away_at_start(world: World, own_engine: DatabaseEngine) -> None:
    error = away(world, own_engine)
    assert isinstance(error, NotReady)
    says(error, "database/creds/app", own_engine.vault.address)
    says(error, "ProviderUnavailable", "cannot be reached: Connection refused")


@asked_once
def test_an_unreachable_vault_at_start_says_what_to_do(
    world: World, own_engine: DatabaseEngine
) -> None:
    says(away(world, own_engine), "check")


def test_a_vault_that_does_not_answer(own_engine: DatabaseEngine) -> None:
    world = World("connection")
    provider = vault_provider(own_engine, "app")
    own_engine.vault.pause()
    try:
        pool = world.open(provider, own_engine.postgres.conninfo())
        keeper = pool._own_keeper
        wait_until(lambda: keeper and keeper._thread.asked_at is not None)
        with pytest.raises(NotReady) as caught, pool.connection(BRIEF):
            pass
    finally:
        own_engine.vault.resume()
        world.close()
    says(caught.value, own_engine.vault.address, "waiting for a reply")


def test_a_vault_that_becomes_unreachable_after_the_start(own_engine: DatabaseEngine) -> None:
    clock, seen = FakeClock(), Seen()
    provider = vault_provider(own_engine, "app", clock=clock)
    keeper = CredentialKeeper(provider, observers=[seen], clock=clock)
    with (
        keeper,
        RotatingConnectionPool(
            keeper, own_engine.postgres.conninfo(), min_size=1, max_size=2
        ) as pool,
    ):
        pool.wait(GENEROUS)
        own_engine.vault.stop()
        with pool.connection(GENEROUS) as first, pool.connection(GENEROUS) as second:
            # Opened with a lease whose Vault is unreachable.
            assert first.execute("SELECT current_user").fetchone() is not None
            assert second.execute("SELECT current_user").fetchone() is not None
        with pool.connection(GENEROUS) as held:
            clock.advance(3600.0)
            seen.wait_for(LeaseExpired)
            seen.wait_for(FetchFailed)
            # Open connections still work even then.
            assert held.execute("SELECT 1").fetchone() == (1,)
            with pool.connection(GENEROUS) as other:
                other.close()
            wait_until(lambda: pool.status().last_error)
            with pytest.raises(CredentialsExpired) as caught, pool.connection(BRIEF):
                pass
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)
        says(caught.value, "database/creds/app", own_engine.vault.address, "have expired")
        says(caught.value, "ProviderUnavailable", "cannot be reached")


# --- PostgreSQL ---------------------------------------------------------------------------------


def test_a_postgresql_that_is_away_at_start(world: World, own_postgres: PostgresServer) -> None:
    provider = FixedProvider(own_postgres.superuser, own_postgres.password)
    own_postgres.stop()
    error = world.after_a_connect(provider, own_postgres.conninfo())
    assert isinstance(error, DatabaseUnreachable)
    says(error, "'orders'", f'"127.0.0.1", port {own_postgres.port}', "Connection refused")
    says(error, "check host and port, and that the server is running")


def behind_vault(
    world: World, vault: VaultServer, postgres: PostgresServer, role: str
) -> EphemeralCredsError:
    engine = DatabaseEngine(vault, postgres, connection=role, mount=role)
    engine.create_role(role)
    provider = VaultDynamicProvider(
        role, auth=vault_provider(engine, role)._auth, mount=role, config=VaultConfig(vault.address)
    )
    postgres.stop()
    return world.after(FetchFailed, provider, postgres.conninfo())


def test_a_postgresql_that_is_away_from_vault_too(
    world: World,
    vault: VaultServer,
    own_postgres: PostgresServer,
    unique: Callable[[str], str],
) -> None:
    role = unique("role")
    error = behind_vault(world, vault, own_postgres, role)
    assert isinstance(error, NotReady)
    says(error, f"{role}/creds/{role}", vault.address, "ProviderUnavailable", "HTTP 500")


@asked_once
def test_a_postgresql_that_vault_cannot_reach_either_says_what_to_do(
    world: World,
    vault: VaultServer,
    own_postgres: PostgresServer,
    unique: Callable[[str], str],
) -> None:
    error = behind_vault(world, vault, own_postgres, unique("role"))
    says(error, "check", "database connection")


@pytest.mark.parametrize(
    "creation_statement",
    [
        """CREATE ROLE "{{name}}" NOLOGIN PASSWORD '{{password}}'""",
        """CREATE ROLE "{{name}}" LOGIN""",
    ],
    ids=["nologin", "no-password"],
)
def test_a_role_whose_sql_makes_no_login(
    world: World,
    engine: DatabaseEngine,
    unique: Callable[[str], str],
    creation_statement: str,
) -> None:
    role = unique("role")
    engine.create_role(role, creation_statements=[f"{creation_statement};"])
    provider = vault_provider(engine, role)
    error = world.after(LoginRejected, provider, engine.postgres.conninfo())
    assert isinstance(error, LoginRefused)
    says(error, "'orders'", f"database/creds/{role}", engine.vault.address)
    says(error, f"port {engine.postgres.port}")
    says(error, "that creation_statements set all three")
    # Refusals mint no roles without end.
    assert engine.mints(role) <= 2


def broken_sql(
    world: World, engine: DatabaseEngine, unique: Callable[[str], str]
) -> tuple[str, EphemeralCredsError]:
    role = unique("role")
    engine.create_role(role, grants=['GRANT SELECT ON no_such_table TO "{{name}}";'])
    provider = vault_provider(engine, role)
    return role, world.after(FetchFailed, provider, engine.postgres.conninfo())


def test_a_role_whose_sql_fails(
    world: World, engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    role, error = broken_sql(world, engine, unique)
    assert isinstance(error, ConfigurationError)
    says(error, f"database/creds/{role}", engine.vault.address, "HTTP 500")
    says(error, 'relation "no_such_table" does not exist')


@asked_once
def test_a_role_whose_sql_fails_says_what_to_do(
    world: World, engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    says(broken_sql(world, engine, unique)[1], "creation_statements")


def test_a_database_that_does_not_exist(world: World, postgres: PostgresServer) -> None:
    provider = FixedProvider(postgres.superuser, postgres.password)
    error = world.after_a_connect(provider, postgres.conninfo("no_such_database"))
    assert isinstance(error, ServerRefused)
    says(error, "'orders'", 'database "no_such_database" does not exist', "check dbname")


# --- a file -------------------------------------------------------------------------------------


@pytest.fixture
def file(canary: Canary) -> Iterator[Path]:
    """A path that an unprivileged user can get at, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        canary.allow_secret_file(folder)
        yield folder / "db-creds.txt"


@pytest.fixture
def unprivileged(file: Path) -> Iterator[Callable[[], None]]:
    """Give up root's right to read everything, where the tests run as root."""
    before = os.geteuid()
    yield lambda: os.seteuid(NOBODY) if before == 0 else None
    os.seteuid(before)


def test_a_file_that_is_absent(world: World, postgres: PostgresServer, file: Path) -> None:
    error = world.after(FetchFailed, FileProvider(file), postgres.conninfo())
    assert isinstance(error, NotReady)
    says(error, str(file), "ProviderUnavailable", "does not exist (yet)")
    says(error, "check that the sidecar runs", "the volume is mounted in this container")


def test_a_file_that_is_empty(world: World, postgres: PostgresServer, file: Path) -> None:
    file.touch()
    error = world.after(FetchFailed, FileProvider(file), postgres.conninfo())
    assert isinstance(error, NotReady)
    says(error, str(file), "MalformedResponse", "it is empty")
    says(error, "is the template's body inside a false condition?")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("DB_USERNAME=app\n", "DB_PASSWORD is missing"),
        ("DB_USERNAME=app\nDB_PASSW", "line 2 is not KEY=VALUE"),
        ("DB_USERNAME=app\nDB_PASSWORD=", "DB_PASSWORD has no value"),
    ],
)
def test_a_file_that_is_half_written(
    world: World, postgres: PostgresServer, file: Path, text: str, what: str
) -> None:
    file.write_text(text)
    error = world.after(FetchFailed, FileProvider(file), postgres.conninfo())
    assert isinstance(error, NotReady)
    says(error, str(file), "MalformedResponse", what)


@asked_once
def test_a_file_that_is_half_written_says_what_to_do(
    world: World, postgres: PostgresServer, file: Path
) -> None:
    file.write_text("DB_USERNAME=app\nDB_PASSW")
    error = world.after(FetchFailed, FileProvider(file), postgres.conninfo())
    says(error, "half written", "template")


def test_a_file_that_may_not_be_read(
    world: World, postgres: PostgresServer, file: Path, unprivileged: Callable[[], None]
) -> None:
    file.write_text("DB_USERNAME=app\nDB_PASSWORD=secret\n")
    file.chmod(0)
    unprivileged()
    error = world.at_once(FileProvider(file), postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, f"not allowed to read {file}", "mode 0000", f"as uid {os.geteuid()}")
    says(error, "Set the template's perms, or run both as the same user")


def test_a_file_with_no_value(world: World, postgres: PostgresServer, file: Path) -> None:
    file.write_text("DB_USERNAME=app\nDB_PASSWORD=<no value>")
    error = world.at_once(FileProvider(file), postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, str(file), "DB_PASSWORD is '<no value>'")
    says(error, "Correct its name", "error_on_missing_key")


@pytest.mark.parametrize("what", ["not a regular file", "70000 bytes"])
def test_a_file_that_is_a_device_or_too_large(
    world: World, postgres: PostgresServer, file: Path, what: str
) -> None:
    if "bytes" in what:
        file.write_bytes(b"x" * 70000)
    else:
        os.mkfifo(file)
    error = world.at_once(FileProvider(file), postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, str(file), what)


@asked_once
def test_a_file_that_the_policy_refuses(world: World, postgres: PostgresServer, file: Path) -> None:
    file.write_text("DB_USERNAME=app\nDB_PASSWORD=secret\n")
    file.chmod(0o644)
    strict = FilePolicy(world_readable="refuse")
    error = world.at_once(FileProvider(file, policy=strict), postgres.conninfo())
    assert isinstance(error, ConfigurationError)
    says(error, str(file), "mode 0644", 'perms = "0400"', "agent-inject-perms-db-creds.txt")


def test_a_file_with_a_password_that_is_wrong(
    world: World, postgres: PostgresServer, file: Path
) -> None:
    file.write_text(f"DB_USERNAME={postgres.superuser}\nDB_PASSWORD=not-that-one\n")
    error = world.after(LoginRejected, FileProvider(file), postgres.conninfo())
    assert isinstance(error, LoginRefused)
    says(error, f"'{postgres.superuser}'", str(file), f"port {postgres.port}")
    says(error, "provider and pool name the same server")


def test_a_file_that_breaks_after_the_start(postgres: PostgresServer, file: Path) -> None:
    file.write_text(f"DB_USERNAME={postgres.superuser}\nDB_PASSWORD={postgres.password.reveal()}\n")
    world = World("connection")
    provider = FileProvider(file, poll_interval=0.05)
    pool = world.open(provider, postgres.conninfo(), max_size=2)
    try:
        pool.wait(GENEROUS)
        file.write_text("DB_USERNAME=")
        with pool.connection(GENEROUS) as first, pool.connection(GENEROUS) as second:
            assert first.execute("SELECT 1").fetchone() == (1,)
            assert second.execute("SELECT 1").fetchone() == (1,)
        file.unlink()
        with pool.connection(GENEROUS) as first:
            first.close()
        with pool.connection(GENEROUS) as first, pool.connection(GENEROUS) as second:
            assert second.execute("SELECT 1").fetchone() == (1,)
    finally:
        world.close()
