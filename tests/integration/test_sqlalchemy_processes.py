"""Engines with credentials in real processes: forks, ends, migrations; and secrets."""

from __future__ import annotations

import gc
import os
import textwrap
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
pytest.importorskip("asyncpg", reason="asyncpg is not installed")

from contextlib import ExitStack

from engines import KINDS, World
from minting import PATIENCE
from psycopg import sql
from scripts import run
from sqlalchemy import exc
from twins import wait_until

from ephemeral_creds import Credentials, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ephemeral_creds import CredentialKeeper
    from ephemeral_creds.testing import DatabaseEngine, PostgresServer, VaultServer

HEAD = """\
import warnings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text
from ephemeral_creds.contrib.sqlalchemy import attach
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
# SQLAlchemy leaves what is idle in its pools to the end of the process.
warnings.filterwarnings("ignore", ".*deleted while still open", ResourceWarning)
WHERE = conninfo_to_dict(CONNINFO)
URL = f"postgresql+psycopg://{WHERE['host']}:{WHERE['port']}/{WHERE['dbname']}"

def value(engine, query="SELECT session_user::text"):
    with engine.connect() as connection:
        return connection.scalar(text(query))

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(10)
    assert exit_status(pid) == 10
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def check(postgres: PostgresServer, prefix: str, body: str) -> None:
    ended = run(postgres, prefix, HEAD + textwrap.dedent(body))
    assert (ended.code, ended.noise, ended.out) == (0, [], "up\n"), ended.err
    assert postgres.roles(prefix) == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("dispose", [False, True])
def test_a_child_of_a_fork_has_a_role_of_its_own(
    postgres: PostgresServer, unique: Callable[[str], str], dispose: bool
) -> None:
    check(
        postgres,
        unique("fork"),
        f"""
        provider = Roles()
        engine = create_engine(URL)
        attach(engine, provider, observers=())
        pid = value(engine, "SELECT pg_backend_pid()")
        assert value(engine) == PREFIX + "_1"
        def work():
            if {dispose}:
                engine.dispose(close=False)
            assert value(engine) == PREFIX + "_2"
            assert value(engine, "SELECT pg_backend_pid()") != pid
        child(work)
        assert value(engine, "SELECT pg_backend_pid()") == pid
        assert value(engine) == PREFIX + "_1"
        assert sessions() == {{PREFIX + "_1": 1}}
        up()
        engine.dispose()
        """,
    )


@pytest.mark.slow
def test_a_process_that_ends_without_dispose_leaves_no_role(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    check(
        postgres,
        unique("ends"),
        """
        engine = create_engine(URL)
        attach(engine, Roles(), observers=())
        value(engine)
        up()
        """,
    )


@pytest.mark.slow
def test_an_engine_that_is_forgotten_lets_go_of_its_keeper(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    check(
        postgres,
        unique("lost"),
        """
        import gc, weakref
        from ephemeral_creds import CredentialKeeper
        from ephemeral_creds.contrib.sqlalchemy.attachment import _attachments
        with CredentialKeeper(Roles(), observers=()) as keeper:
            engine = create_engine(URL)
            attach(engine, keeper)
            value(engine)
            gone = weakref.ref(engine)
            held = _attachments[engine.dialect].logins().sessions
            engine.pool.dispose()
            del engine
            gc.collect()
            assert gone() is None
            assert held._is_closed
        up()
        """,
    )


# -- Alembic -------------------------------------------------------------------------------------

ENV = """\
from alembic import context
from sqlalchemy import engine_from_config, pool

connectable = engine_from_config(
    context.config.get_section(context.config.config_ini_section, {}),
    prefix="sqlalchemy.",
    poolclass=pool.NullPool,
)
with connectable.connect() as connection:
    context.configure(connection=connection, target_metadata=None, version_table="TABLE_versions")
    with context.begin_transaction():
        context.run_migrations()
"""
MIGRATION = """\
from alembic import op
import sqlalchemy as sa

revision, down_revision = "1", None

def upgrade():
    op.create_table("TABLE", sa.Column("number", sa.Integer, primary_key=True))
"""


@pytest.mark.slow
def test_objects_of_migrations_belong_to_the_session_role(
    vault: VaultServer,
    engine: DatabaseEngine,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    command = pytest.importorskip("alembic.command", reason="Alembic is not installed")
    config = pytest.importorskip("alembic.config")
    role, owner, table = unique("migrations"), unique("owner"), unique("migrated")
    with postgres.admin() as admin:
        admin.execute(sql.SQL("CREATE ROLE {0}").format(sql.Identifier(owner)))
        grant = sql.SQL("GRANT CREATE ON SCHEMA public TO {}")
        admin.execute(grant.format(sql.Identifier(owner)))
    engine.create_role(role, grants=[f'GRANT "{owner}" TO "{{{{name}}}}"'])
    monkeypatch.setenv("VAULT_TOKEN_FOR_TEST", vault.root_token.reveal())
    source = f"vault://{role}?address={vault.address}&auth=token&token_env=VAULT_TOKEN_FOR_TEST"
    query = f"plugin=ephemeral_creds&session_role={owner}&credentials={quote(source, safe='')}"
    where = f"postgresql+psycopg://{postgres.host}:{postgres.port}/postgres"
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV.replace("TABLE", table))
    (tmp_path / "versions" / "one.py").write_text(MIGRATION.replace("TABLE", table))
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {tmp_path}\npath_separator = os\n"
        f"sqlalchemy.url = {where}?{query.replace('%', '%%')}\n"
    )
    command.upgrade(config.Config(str(tmp_path / "alembic.ini")), "head")
    # env.py forgets its engine, and the last one of a URL takes the keeper with it.
    gc.collect()
    wait_until(lambda: not [name for name in postgres.roles("v-") if role in name])
    with postgres.admin() as admin:
        owners = admin.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE %s", [f"{table}%"]
        ).fetchall()
        assert owners == [(owner,)]
        admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(owner)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner)))


# -- session_role and secrets, with each driver --------------------------------------------------


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    stack: ExitStack,
) -> World:
    return World(request.param, postgres, unique("sql"), stack)


@pytest.fixture
def owner(world: World, unique: Callable[[str], str]) -> Iterator[str]:
    with world.provider.owner(unique("owner")) as name:
        yield name


def ready(world: World) -> CredentialKeeper:
    """Return a keeper with credentials, for which no login has to wait."""
    keeper = world.keeper()
    keeper.wait(PATIENCE)
    return keeper


def test_sessions_act_as_the_session_role(world: World, owner: str) -> None:
    world.provider.grants = [owner]
    face = world.engine(session_role=owner)
    for generation in (1, 2):
        assert face.value("SELECT current_user::text") == owner
        assert face.value("SELECT session_user::text") == world.role(generation)
        world.rotate(generation + 1)


def test_a_session_role_that_was_not_granted_is_named(world: World, owner: str) -> None:
    face = world.engine(ready(world), session_role=owner, pool_timeout=0.5)
    with pytest.raises(exc.DBAPIError, match=owner):
        face.value()


def test_no_password_is_shown(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG", "sqlalchemy")
    face = world.engine(echo_pool="debug", echo=True)
    face.value()
    world.rotate(2)
    world.revoked(1)
    shown = [repr(face.raw), str(face.raw.url), caplog.text, *capsys.readouterr()]
    assert "minted-password" not in "".join(shown)
    assert "Created new connection" in caplog.text


def test_a_failed_login_shows_no_password(world: World) -> None:
    good = world.provider.mint

    def mint(number: int) -> Credentials:
        return Credentials(good(number).username, Secret(f"wrong-password-{number}"))

    world.provider.mint = mint
    face = world.engine(ready(world), pool_timeout=0.2)
    with pytest.raises(exc.OperationalError, match="authentication failed") as caught:
        face.value()
    error: BaseException | None = caught.value
    shown = []
    while error is not None:
        shown += [repr(error), repr(vars(error))]
        frames = traceback.walk_tb(error.__traceback__)
        shown += [repr(frame.f_locals) for frame, _ in frames if "ephemeral" not in str(frame)]
        error = error.__cause__ or error.__context__
    assert "wrong-password" not in "".join(shown)
