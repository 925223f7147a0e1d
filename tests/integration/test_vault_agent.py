"""An agent: the file that it writes, under load, through its accidents; and as a proxy.

Every handover is the agent's own: new credentials arrive a second or two before the old ones end.
`EPHEMERAL_CREDS_HANDOVERS` asks for more of them than the one of an ordinary run, under more load.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from handovers import HURRIED, Load, Role, Watched, make_role
from minting import PATIENCE, Events
from twins import TWINS, wait_until

from ephemeral_creds import (
    AppRoleAuth,
    ConfigurationError,
    Secret,
    TokenAuth,
    VaultConfig,
    VaultDynamicProvider,
)
from ephemeral_creds.events import CredentialsPublished, LeaseRevoked
from ephemeral_creds.providers.file import FileProvider
from ephemeral_creds.testing import AppRole, DatabaseEngine, VaultAgent, dotenv_template
from persistent_vault import PersistentVaultServer
from service_accounts import TokenReviewServer, agent_method, create_kubernetes_role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import PostgresServer

pytestmark = pytest.mark.slow

HANDOVERS = int(os.environ.get("EPHEMERAL_CREDS_HANDOVERS", "1"))
PAUSE = 0.05 if HANDOVERS == 1 else 0.005


@pytest.fixture
def file(tmp_path: Path, canary: Canary) -> Path:
    """Where the agent writes."""
    canary.allow_secret_file(tmp_path)  # the sidecar's work
    return tmp_path / "secrets" / "db-creds.txt"


@pytest.fixture
def short(engine: DatabaseEngine, unique: Callable[[str], str]) -> Role:
    """Credentials of three seconds, six at most: the agent hands over about every five."""
    return make_role(engine, unique("sidecar"), default_ttl="3s", max_ttl="6s")


@pytest.fixture
def capped(engine: DatabaseEngine, unique: Callable[[str], str]) -> Role:
    """Credentials of twenty seconds that cannot be extended.

    An agent hands over when between a tenth and a fifth of what it was given last is left, and a
    busy machine needs more than the second that this may be of ten.
    """
    return make_role(engine, unique("sidecar"), default_ttl="20s", max_ttl="20s")


@pytest.fixture
def long(engine: DatabaseEngine, unique: Callable[[str], str]) -> Role:
    """Credentials that last as long as the test."""
    return make_role(engine, unique("sidecar"), default_ttl="1h", max_ttl="24h")


@pytest.fixture(params=list(TWINS))
def make_pool(
    request: pytest.FixtureRequest, postgres: PostgresServer
) -> Iterator[Callable[..., RotatingConnectionPool[Any]]]:
    """Make and open pools of both kinds."""
    with ExitStack() as stack:
        twin = TWINS[request.param]()
        stack.callback(twin.close)

        def make(provider: object, events: Events, **options: Any) -> RotatingConnectionPool[Any]:
            options = {"refresh": HURRIED, "min_size": 4, "max_size": 8, **options}
            pool = twin.make(provider, postgres.conninfo(), observers=[events], **options)
            stack.callback(pool.close)
            pool.open(wait=True, timeout=PATIENCE)
            return pool

        yield make


def agent_by_approle(engine: DatabaseEngine, role: Role, file: Path, **options: Any) -> VaultAgent:
    login = engine.admin.create_approle(role.name, [role.policy], **options)
    return VaultAgent(engine.vault.address, login, templates={file: dotenv_template(role.path)})


# --- The file -----------------------------------------------------------------------------------


def test_the_article_template_as_it_stands(
    engine: DatabaseEngine, postgres: PostgresServer, short: Role, file: Path, tmp_path: Path
) -> None:
    provider = FileProvider(file, poll_interval=0.1)
    names, seen = [], list[str]()
    with TokenReviewServer() as reviewer:
        create_kubernetes_role(engine.admin, short.name, reviewer, [short.policy], token_ttl="1h")
        login = agent_method(tmp_path, short.name)
        logins = engine.vault.count("PUT", "auth/kubernetes/login")
        template = {file: dotenv_template(short.path)}
        with VaultAgent(engine.vault.address, login, templates=template) as agent:
            for _ in range(2):
                wait_until(lambda: file.read_text() not in seen, agent.log)
                text = file.read_text()
                seen.append(text)
                assert re.fullmatch(r"DB_USERNAME=[\w-]+\nDB_PASSWORD=[\w-]+", text)
                credentials = provider.fetch().credentials
                with postgres.login(credentials.username, credentials.password) as connection:
                    row = connection.execute("SELECT current_user").fetchone()
                assert row == (credentials.username,)
                names.append(credentials.username)
        assert engine.vault.count("PUT", "auth/kubernetes/login") == logins + 1
    assert len(set(names)) == 2
    assert file.stat().st_mode & 0o777 == 0o644, "the agent's default"


def test_no_query_fails_at_the_handovers(
    engine: DatabaseEngine,
    capped: Role,
    file: Path,
    make_pool: Callable[..., RotatingConnectionPool[Any]],
    record_property: Callable[[str, object], None],
) -> None:
    watched = Watched(file)
    with agent_by_approle(engine, capped, file):
        pool = make_pool(watched.provider, watched.events)
        with Load(pool, capped.table, pause=PAUSE) as load:
            for count in range(1, HANDOVERS + 1):
                watched.handovers(count)
            load.goes_on()
        pool.close()
    figures = {
        "handovers": HANDOVERS,
        "transactions": load.succeeded,
        "failed": load.failed,
        "refused logins": watched.refused(),
        "p50 ms": round(load.quantile(0.5) * 1000, 2),
        "p99.9 ms": round(load.quantile(0.999) * 1000, 2),
        "max ms": round(load.quantile(1.0) * 1000, 2),
        "peak connections": pool.peak_connections,
    }
    for name, value in figures.items():
        record_property(name, value)
    print(figures)
    assert not load.failures, figures
    assert pool.peak_connections <= 8 + 2


# --- The agent's accidents ----------------------------------------------------------------------


def test_an_agent_that_is_killed_and_restarted(
    engine: DatabaseEngine,
    long: Role,
    file: Path,
    make_pool: Callable[..., RotatingConnectionPool[Any]],
) -> None:
    watched = Watched(file)
    with agent_by_approle(engine, long, file) as agent:
        pool = make_pool(watched.provider, watched.events)
        with Load(pool, long.table) as load:
            agent.kill()
            load.goes_on()
            agent.start()  # with a login, and credentials, of its own
            watched.handovers(1)
            load.goes_on()
        assert not load.failures
        assert engine.mints(long.name) == 2


def test_an_agent_whose_token_is_revoked(
    engine: DatabaseEngine,
    long: Role,
    file: Path,
    make_pool: Callable[..., RotatingConnectionPool[Any]],
) -> None:
    """Its leases end with the token, at once: no client can prevent that. It passes by itself."""
    watched = Watched(file)
    with agent_by_approle(engine, long, file, token_ttl="6s", token_max_ttl="1h") as agent:
        pool = make_pool(watched.provider, watched.events)
        with Load(pool, long.table) as load:
            load.goes_on()
            token = agent.token
            assert token is not None
            engine.admin.revoke_token(token)
            watched.handovers(1)  # the agent logs in again when it cannot renew its token
            load.goes_on()
        # Of callers in the middle of a transaction; after that, sessions are tested first.
        print(load.failures)
        assert load.failed <= load.workers, load.failures
        assert engine.mints(long.name) == 2


@pytest.mark.parametrize("make_pool", ["sync"], indirect=True)
def test_vault_is_restarted_underneath(
    postgres: PostgresServer,
    file: Path,
    make_pool: Callable[..., RotatingConnectionPool[Any]],
    unique: Callable[[str], str],
) -> None:
    watched = Watched(file)
    with PersistentVaultServer() as vault:
        engine = DatabaseEngine(vault, postgres)
        role = make_role(engine, unique("restarted"), default_ttl="20s", max_ttl="20s")
        with agent_by_approle(engine, role, file):
            pool = make_pool(watched.provider, watched.events)
            with Load(pool, role.table) as load:
                vault.kill()
                load.goes_on()
                vault.start()
                watched.handovers(1)
                load.goes_on()
            assert not load.failures
            pool.close()


# --- The agent as a proxy -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_pool", "login"), [("sync", "own"), ("async", "of the agent")], indirect=["make_pool"]
)
def test_a_cache_between_us_and_vault_does_not_keep_old_credentials(
    engine: DatabaseEngine,
    capped: Role,
    make_pool: Callable[..., RotatingConnectionPool[Any]],
    tmp_path: Path,
    canary: Canary,
    login: str,
) -> None:
    canary.allow_secret_file(tmp_path)
    approle = engine.admin.create_approle(capped.name, [capped.policy])
    events = Events()
    with VaultAgent(engine.vault.address, approle, api_proxy=True) as agent:
        auth: TokenAuth | AppRoleAuth = AppRoleAuth(approle.role_id, approle.secret_id)
        if login == "of the agent":
            (tmp_path / "token").write_text(agent.token.reveal() if agent.token else "")
            auth = TokenAuth(path=tmp_path / "token")
        provider = VaultDynamicProvider(capped.name, auth=auth, config=VaultConfig(agent.address))
        # Long before the end: once a second has ended, there is less left than was asked for.
        pool = make_pool(provider, events, refresh=replace(HURRIED, renew_at=0.15))
        with Load(pool, capped.table) as load:
            events.wait_for(CredentialsPublished, 2)
            events.wait_for(LeaseRevoked)
        assert not load.failures
        pool.close()
    names = {event.username for event in events.of(CredentialsPublished)}  # type: ignore[attr-defined]
    assert len(names) == len(events.of(CredentialsPublished))
    assert engine.leases(capped.name) == []


# --- The class itself ---------------------------------------------------------------------------


def test_an_agent_leaves_only_the_files_that_it_wrote(
    engine: DatabaseEngine, long: Role, file: Path
) -> None:
    with agent_by_approle(engine, long, file) as agent:
        home = agent.folder
        assert home.exists()
        agent.stop()
        assert not agent.running
        agent.start()
        agent.wait()
    agent.close()
    assert not home.exists()
    assert file.exists()
    assert agent.token is None


def test_an_agent_that_cannot_log_in_says_so(engine: DatabaseEngine) -> None:
    login = AppRole("nobody", Secret("nothing"), mount="nowhere")
    agent = VaultAgent(engine.vault.address, login)
    agent.start()
    try:
        wait_until(lambda: "nowhere" in agent.log)
        with pytest.raises(ConfigurationError, match=r"(?s)has not logged in.*nowhere"):
            agent.wait(0.1)
    finally:
        agent.close()
