"""``ephemeral-creds exec``: programs that log in by themselves, and a lease that ends with them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import (
    COMMAND,
    HURRIED,
    SAY,
    Command,
    Source,
    client,
    environment,
    hurried,
    run,
    vault_url,
)
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canary import Canary
    from ephemeral_creds.testing import DatabaseEngine, PostgresServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "posix_spawnp"), reason="no posix_spawn here"),
]

# A program that says who it is and which signals it gets, until it is told to end.
WATCHER = f"""{SAY}
def tell(number, _):
    say(signal.Signals(number).name)
    if number == signal.SIGTERM:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, tell)
say("up", os.environ["PGUSER"])
stay()
"""


def watcher(*options: str) -> list[str]:
    return [*options, "--", sys.executable, "-c", WATCHER]


@pytest.fixture
def source(
    postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, canary: Canary
) -> Iterator[Source]:
    source = Source(postgres, unique("exec"), tmp_path, canary)
    yield source
    source.drop_all()


@pytest.fixture
def env(postgres: PostgresServer, tmp_path: Path) -> dict[str, str]:
    """An environment whose private directories can be looked for."""
    (tmp_path / "private").mkdir()
    return environment(postgres, TMPDIR=str(tmp_path / "private"))


def left_over(env: dict[str, str]) -> list[Path]:
    return list(Path(env["TMPDIR"]).iterdir())


# -- with a lease ----------------------------------------------------------------------------


def test_psql_runs_as_a_minted_role_that_is_gone_afterwards(
    engine: DatabaseEngine, role: str
) -> None:
    url, env = vault_url(engine, role)
    query = "SELECT current_user, session_user"
    status, out, err = run("exec", url, "--", client("psql"), "-XAtc", query, env=env)
    assert (status, err) == (0, "")
    user, _, session_user = out.partition("|")
    assert user == session_user
    assert f"-{role[:8]}-" in user
    assert engine.leases(role) == []
    assert user not in engine.postgres.roles()


def test_pg_dump_and_verbose_events(engine: DatabaseEngine, role: str) -> None:
    url, env = vault_url(engine, role)
    # The database is shared: other tests' tables are there, which the minted role may not lock.
    command = (client("pg_dump"), "--schema-only", "--exclude-table=*.*")
    status, out, err = run("exec", "--verbose", url, "--", *command, env=env)
    assert status == 0, err
    assert "PostgreSQL database dump complete" in out
    assert "CredentialsPublished generation=1" in err
    assert "LeaseRevoked generation=1" in err


def test_nothing_is_minted_for_a_program_that_does_not_exist(
    engine: DatabaseEngine, role: str, tmp_path: Path
) -> None:
    url, env = vault_url(engine, role)
    status, out, err = run("exec", url, "--", "no-such-program", env=env)
    assert (status, out) == (127, "")
    why = "no-such-program does not exist in any directory of PATH"
    assert err == f"ephemeral-creds exec: error: {why}"
    assert run("exec", url, "--", f"{tmp_path}/none", env=env)[0] == 127
    assert run("exec", url, "--", str(tmp_path), env=env)[0] == 126
    assert engine.mints(role) == 0


def test_a_program_that_the_system_cannot_load(
    source: Source, env: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF not really")
    program.chmod(0o700)
    status, _, err = run("exec", source.url, "--", str(program), env=env)
    assert status == 126
    assert err.startswith("ephemeral-creds exec: error: program cannot be run: ")
    assert left_over(env) == []


def test_without_credentials(engine: DatabaseEngine, role: str, env: dict[str, str]) -> None:
    status, out, err = run("exec", "vault:/role", "--", "true", env=env)
    assert (status, out) == (125, "")
    assert "a provider's URL begins with a scheme" in err
    status, _, err = run("exec", "--timeout", "0.2", "file:///no/file", "--", "true", env=env)
    assert status == 125
    assert "/no/file" in err
    url, env = vault_url(engine, role)
    engine.delete_role(role)
    status, _, err = run("exec", url, "--", "true", env=env)
    assert status == 125
    assert role in err


def test_restarts_in_rotations_of_real_leases(
    engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    """Each program has another role, whose lease is revoked only when the program has ended."""
    role = unique("role")
    # A program may take half a minute from its start to its end.
    engine.create_role(role, default_ttl="40s", max_ttl="40s")
    url, env = vault_url(engine, role)
    program = """
import os, signal
# A rotation may come before it is up, however long that takes: until then, the signal waits.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
import psycopg
connection = psycopg.connect("", autocommit=True)
print("up", os.environ["PGUSER"], flush=True)
signal.sigwait([signal.SIGTERM])
# The role is still there, and so is its password.
[user] = connection.execute("SELECT current_user").fetchone()
psycopg.connect("").close()
print("ended", user, flush=True)
"""
    arguments = ["exec", "--on-rotation", "restart", url, "--", sys.executable, "-c", program]
    with Command(*arguments, env=env, command=hurried(renew_at=0.2)) as running:
        users = []
        for _ in range(3):
            word, user = running.line().split()
            assert word == "up"
            assert running.line() == f"ended {user}"
            users.append(user)
            assert len(engine.leases(role)) <= 2
        running.line()
        running.process.send_signal(signal.SIGTERM)
        assert running.line().startswith("ended ")
        assert running.end() == 0
    assert len(set(users)) == 3
    wait_until(lambda: engine.leases(role) == [])
    assert not [name for name in engine.postgres.roles() if f"-{role[:8]}-" in name]


@pytest.mark.parametrize("ends_sessions", [True, False])
def test_rotations_cost_a_program_built_on_libpq_no_connection(
    engine: DatabaseEngine, unique: Callable[[str], str], ends_sessions: bool
) -> None:
    """It logs in again and again, and finds the new user in the service file."""
    role = unique("role")
    statements = [
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
        'DROP ROLE IF EXISTS "{{name}}"',
    ]
    engine.create_role(
        role,
        default_ttl="10s",
        max_ttl="10s",
        revocation_statements=statements if ends_sessions else [],
    )
    url, env = vault_url(engine, role)
    program = """
import psycopg
users, queries = [], 0
while len(users) < 5:
    with psycopg.connect("") as connection:
        [user] = connection.execute("SELECT current_user").fetchone()
    queries += 1
    if user not in users:
        users.append(user)
print(queries, flush=True)
"""
    arguments = ["exec", "--pg-service", url, "--", sys.executable, "-c", program]
    with Command(*arguments, env=env, command=HURRIED) as running:
        assert int(running.line()) > 100
        assert running.end() == 0, running.err
    assert engine.leases(role) == []


# -- what the program finds --------------------------------------------------------------------


def test_environment_and_passfile(source: Source, env: dict[str, str], canary: Canary) -> None:
    program = """
import os, pathlib, stat, sys
path = pathlib.Path(os.environ["PGPASSFILE"])
modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)]
print(os.environ["PGUSER"], *map(oct, modes), "PGPASSWORD" in os.environ)
secret = path.read_text().rstrip().rpartition(":")[2]
commands = "".join(
    pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in (os.getpid(), os.getppid())
) if os.path.exists("/proc/self") else ""
print(secret in commands, secret in str(os.environ), path.parent.parent)
"""
    env["PGPASSWORD"] = "another"
    arguments = ("exec", source.url, "--", sys.executable, "-c", program)
    status, out, err = run(*arguments, env=env)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{source.role()} 0o600 0o700 False",
        f"False False {env['TMPDIR']}",
    ]
    assert left_over(env) == []


def test_passwords_that_a_passfile_has_to_escape(
    source: Source, env: dict[str, str], canary: Canary
) -> None:
    password = "a:b\\c\\\\:d 'e\" #%é"
    canary.register_secret(password)
    source.rotate(password)
    status, out, err = run(
        *("exec", source.url, "--", client("psql"), "-XAtc", "SELECT current_user"), env=env
    )
    assert (status, out, err) == (0, source.role(), "")


def test_other_variables_only_where_they_are_asked_for(source: Source, env: dict[str, str]) -> None:
    source.rotate("a:b/c@d%e?f")
    program = """
import os, psycopg
print(os.environ["DB_USER"] == os.environ["PGUSER"])
conninfo = os.environ["DATABASE_URL"]
with psycopg.connect(conninfo, passfile="/dev/null") as connection:
    print(connection.execute("SELECT current_user").fetchone()[0])
with psycopg.connect(password=os.environ["DB_PASSWORD"], passfile="/dev/null") as connection:
    print(connection.execute("SELECT current_user").fetchone()[0])
"""
    template = f"postgresql://{{user}}:{{password}}@{env['PGHOST']}:{env['PGPORT']}/postgres"
    options = ["--user-env", "DB_USER", "--password-env", "DB_PASSWORD"]
    options += ["--url-env", f"DATABASE_URL={template}"]
    arguments = ["exec", *options, source.url, "--", sys.executable, "-c", program]
    status, out, err = run(*arguments, env=env)
    assert (status, err) == (0, "")
    assert out.split() == ["True", source.role(), source.role()]


def test_alembic_needs_no_change(source: Source, env: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("alembic", reason="Alembic is not installed")
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = migrations\nsqlalchemy.url = postgresql+psycopg://\n"
    )
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parent / "env.py").write_text(
        "from alembic import context\n"
        "from sqlalchemy import engine_from_config\n"
        "engine = engine_from_config(context.config.get_section('alembic'))\n"
        "with engine.connect() as connection:\n"
        "    context.configure(connection=connection, version_table_schema='pg_temp')\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    (versions / "one.py").write_text(
        "from alembic import op\nrevision = 'one'\ndown_revision = None\n"
        "def upgrade():\n    op.execute('CREATE TEMPORARY TABLE made (id int)')\n"
        "    print('as', op.get_bind().exec_driver_sql('SELECT current_user').scalar())\n"
    )
    arguments = ("exec", source.url, "--", sys.executable, "-m", "alembic", "upgrade", "head")
    with Command(*arguments, env=env, cwd=tmp_path) as running:
        assert running.end() == 0, running.err
        assert running.out == [f"as {source.role()}"]


# -- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "expected"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill $$", 143)]
)
def test_exit_status(source: Source, env: dict[str, str], script: str, expected: int) -> None:
    assert run("exec", source.url, "--", "sh", "-c", script, env=env) == (expected, "", "")
    assert left_over(env) == []


def test_signals_are_passed_on(source: Source, env: dict[str, str]) -> None:
    with Command("exec", source.url, *watcher(), env=env) as running:
        assert running.line() == f"up {source.role()}"
        for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT"):
            running.process.send_signal(signal.Signals[name])
            assert running.line() == name
        running.process.terminate()
        assert running.line() == "SIGTERM"
        assert running.end() == 7
    assert left_over(env) == []


def test_a_signal_while_there_is_no_program(env: dict[str, str], tmp_path: Path) -> None:
    url = f"file://{tmp_path}/none"
    with Command("exec", "--verbose", url, "--", "true", env=env) as running:
        wait_until(lambda: any("FetchFailed" in line for line in running.err))
        running.process.terminate()
        assert running.end() == 143
    assert left_over(env) == []


def test_a_program_that_is_killed_leaves_no_role(engine: DatabaseEngine, role: str) -> None:
    url, env = vault_url(engine, role)
    with Command("exec", url, "--", "sh", "-c", "echo $$; exec sleep 600", env=env) as running:
        os.kill(int(running.line()), signal.SIGKILL)
        assert running.end() == 137
    assert engine.leases(role) == []


def test_sigterm_leaves_no_role(engine: DatabaseEngine, role: str) -> None:
    url, env = vault_url(engine, role)
    with Command("exec", url, "--", "sh", "-c", "echo up; exec sleep 600", env=env) as running:
        running.line()
        running.process.terminate()
        assert running.end() == 143
    assert engine.leases(role) == []


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs a process namespace of its own",
)
def test_the_first_process_of_a_container_reaps_orphans(
    source: Source, env: dict[str, str]
) -> None:
    program = """
import os, subprocess, sys, time
script = "sleep 0.01 & echo $!"
orphans = [subprocess.check_output(["sh", "-c", script]).decode().strip() for _ in range(3)]
while any(os.path.exists(f"/proc/{pid}") for pid in orphans):
    time.sleep(0.01)
print(os.getppid())
sys.exit(4)
"""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", *COMMAND)
    arguments = ["exec", source.url, "--", sys.executable, "-c", program]
    with Command(*arguments, env=env, command=namespace) as running:
        if running.end() == 1 and "unshare" in running.err[0]:
            pytest.skip(running.err[0])
        assert (running.end(), running.out) == (4, ["1"]), running.err


# -- rotations ---------------------------------------------------------------------------------


def test_restart(source: Source, env: dict[str, str]) -> None:
    arguments = watcher("--on-rotation", "restart", source.url)
    with Command("exec", *arguments, env=env) as running:
        for number in (1, 2, 3):
            assert running.line() == f"up {source.role(number)}"
            if number < 3:
                source.rotate()
                assert running.line() == "SIGTERM"
        running.process.terminate()
        assert running.line() == "SIGTERM"
        assert running.end() == 7


def test_a_password_in_the_environment_that_changes_is_a_rotation(
    source: Source, env: dict[str, str]
) -> None:
    arguments = watcher("--on-rotation", "restart", "--password-env", "SECRET", source.url)
    with Command("exec", *arguments, env=env) as running:
        for number in range(2):
            assert running.line() == f"up {source.role()}"
            if number == 0:
                source.set_password("changed-Password-2")
                assert running.line() == "SIGTERM"
        running.process.terminate()
        running.line()
        assert running.end() == 7


def test_a_program_that_does_not_end_is_killed(source: Source, env: dict[str, str]) -> None:
    program = "trap '' TERM; echo up $PGUSER; while :; do sleep 0.05; done"
    arguments = ["exec", "--on-rotation", "restart", "--grace", "0.3", source.url]
    with Command(*arguments, "--", "sh", "-c", program, env=env) as running:
        assert running.line() == f"up {source.role()}"
        source.rotate()
        assert running.line() == f"up {source.role()}"
        running.process.terminate()
        source.rotate()
        # It was asked to end: there is no third start.
        assert running.end() == 137
    assert len(running.out) == 2


def test_stop(source: Source, env: dict[str, str]) -> None:
    arguments = watcher("--on-rotation", "stop", source.url)
    with Command("exec", *arguments, env=env) as running:
        running.line()
        source.rotate()
        assert running.line() == "SIGTERM"
        assert running.end() == 75


def test_signal(source: Source, env: dict[str, str]) -> None:
    arguments = watcher("--on-rotation", "signal:HUP", source.url)
    with Command("exec", *arguments, env=env) as running:
        running.line()
        for _ in range(2):
            source.rotate()
            assert running.line() == "SIGHUP"
        running.process.terminate()
        running.line()
        assert running.end() == 7


def test_ignored_rotations_leave_the_old_user_with_its_password(
    source: Source, env: dict[str, str], tmp_path: Path
) -> None:
    """And a password that changes without its user is read with the next connection."""
    program = f"""{SAY}
import psycopg
def login(*_):
    with psycopg.connect("") as connection:
        say(connection.execute("SELECT current_user").fetchone()[0])
signal.signal(signal.SIGUSR1, login)
login()
stay()
"""
    with Command("exec", source.url, "--", sys.executable, "-c", program, env=env) as running:
        assert running.line() == source.role(1)
        [folder] = left_over(env)
        source.set_password("changed-Password-1")
        wait_until(lambda: "changed" in (folder / "passfile").read_text())
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == source.role(1)
        source.rotate()
        wait_until(lambda: source.role(2) in (folder / "passfile").read_text())
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == source.role(1)
        wait_until(lambda: bool(running.err))
        assert "still logs in as" in running.err[0]
        running.process.terminate()
        assert running.end() == 143
    assert left_over(env) == []


def test_libpq_finds_a_new_user_in_the_service_file(source: Source, env: dict[str, str]) -> None:
    program = f"""{SAY}
import psycopg
def login(*_):
    with psycopg.connect("") as connection:
        say(connection.execute("SELECT current_user").fetchone()[0])
signal.signal(signal.SIGHUP, login)
login()
stay()
"""
    options = ["--pg-service", "--on-rotation", "signal:HUP"]
    arguments = ["exec", *options, source.url, "--", sys.executable, "-c", program]
    with Command(*arguments, env=env) as running:
        for number in (1, 2, 3):
            assert running.line() == source.role(number)
            if number < 3:
                source.rotate()
        running.process.terminate()
        assert running.end() == 143
    status, _, err = run(*arguments, env=env | {"PGSERVICE": "mine"})
    assert status == 125
    assert "PGSERVICE is set" in err


# -- in a terminal -----------------------------------------------------------------------------
