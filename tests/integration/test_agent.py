"""``ephemeral-creds agent`` and `CredentialsFile`: several processes with one lease."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from commands import HURRIED, Command, vault_url
from handovers import Load, make_role
from twins import wait_until

from ephemeral_creds import FileProvider, RotatingConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import DatabaseEngine

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path, canary: Canary) -> Path:
    canary.allow_secret_file(tmp_path)
    return tmp_path / "db.json"


def user(file: Path) -> str:
    return str(json.loads(file.read_text())["username"])


def is_used(pool: RotatingConnectionPool[Any], username: str) -> bool:
    """Return whether each connection of the pool is of that user."""
    status = pool.status()
    return status.keeper.username == username and status.connections.keys() == {
        status.keeper.generation
    }


def test_a_pool_reads_what_the_agent_writes(engine: DatabaseEngine, role: str, file: Path) -> None:
    url, env = vault_url(engine, role)
    arguments = ["agent", "--verbose", "--drain", "0.5", url, str(file)]
    with Command(*arguments, env=env, command=HURRIED) as agent:
        wait_until(file.exists)
        assert file.stat().st_mode & 0o777 == 0o600
        pool = RotatingConnectionPool(
            FileProvider(file, poll_interval=0.05), engine.postgres.conninfo(), min_size=1
        )
        with pool:
            for _ in range(2):
                before = user(file)
                wait_until(lambda: is_used(pool, before))  # noqa: B023 - called here only
                with pool.connection() as connection:
                    assert connection.execute("SELECT current_user").fetchone() == (before,)
                agent.process.send_signal(signal.SIGUSR1)
                wait_until(lambda: user(file) != before)  # noqa: B023 - called here only
                wait_until(lambda: len(engine.leases(role)) == 1)
                # What the file says, or VALID UNTIL, which Vault sets a few seconds later.
                assert 3000 < (pool.keeper.status().ends_in or 0) < 3700
        agent.process.terminate()
        assert agent.end() == 0
        assert any("LeaseRevoked" in line for line in agent.err)
    assert not file.exists()
    assert engine.leases(role) == []


def test_an_agent_that_cannot_work_says_why(
    engine: DatabaseEngine, role: str, tmp_path: Path
) -> None:
    url, env = vault_url(engine, role)
    for arguments, says in (
        (["vault:/x", str(tmp_path / "x")], "a provider's URL begins"),
        ([url, str(tmp_path / "none" / "x")], f"{tmp_path}/none is not a directory"),
        ([url, str(tmp_path / "x"), "--mode", "0644"], "mode 0644: the file has a password"),
        # As long as a busy machine may take until it has looked for the file.
        ([f"file://{tmp_path}/none", str(tmp_path / "x"), "--timeout", "3"], "does not exist"),
    ):
        with Command("agent", *arguments, env=env) as agent:
            assert agent.end() == 125
            assert says in "\n".join(agent.err)
    assert engine.leases(role) == []
    assert list(tmp_path.iterdir()) == []


def test_an_agent_waits_for_its_source_until_a_signal(
    engine: DatabaseEngine, role: str, tmp_path: Path
) -> None:
    _, env = vault_url(engine, role)
    arguments = ["agent", f"file://{tmp_path}/none", str(tmp_path / "x")]
    with Command(*arguments, env=env) as agent:
        wait_until(lambda: any("FetchFailed" in line for line in agent.err))
        agent.process.terminate()
        assert agent.end() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends_sessions", [True, False])
def test_ten_rotations_cost_no_operation(
    engine: DatabaseEngine, unique: Callable[[str], str], file: Path, ends_sessions: bool
) -> None:
    """Two pools under load, and a revocation that ends sessions or only drops the role."""
    role = make_role(engine, unique("ten"), default_ttl="1h", max_ttl="24h")
    if ends_sessions:
        statements = [
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
            'DROP ROLE IF EXISTS "{{name}}"',
        ]
        grant = f'GRANT {role.name}_group TO "{{{{name}}}}"'
        engine.create_role(role.name, grants=[grant], revocation_statements=statements)
    url, env = vault_url(engine, role.name)
    arguments = ["agent", "--drain", "2", url, str(file)]
    with Command(*arguments, env=env, command=HURRIED) as agent:
        wait_until(file.exists)
        users = {user(file)}
        with ExitStack() as stack:
            provider = partial(FileProvider, file, poll_interval=0.2)
            pools = [
                RotatingConnectionPool(provider(), engine.postgres.conninfo(), min_size=2)
                for _ in range(2)
            ]
            for pool in pools:
                stack.enter_context(pool)
            loads = [stack.enter_context(Load(pool, role.table, workers=4)) for pool in pools]
            for number in range(2, 12):
                agent.process.send_signal(signal.SIGUSR1)
                wait_until(lambda: user(file) not in users)
                users.add(user(file))
                wait_until(lambda: len(engine.leases(role.name)) == 1)
                for load in loads:
                    load.goes_on()
                assert len(users) == number
        agent.process.terminate()
        assert agent.end() == 0
    assert [load.failures for load in loads] == [Counter(), Counter()]
    assert min(load.succeeded for load in loads) > 100
    assert engine.leases(role.name) == []
    assert users.isdisjoint(engine.postgres.roles())


def test_a_dropped_role_is_replaced(engine: DatabaseEngine, role: str, file: Path) -> None:
    url, env = vault_url(engine, role)
    arguments = ["agent", "--conninfo", engine.postgres.conninfo(), url, str(file)]
    with Command(*arguments, env=env) as agent:
        wait_until(file.exists)
        dropped = user(file)
        with closing(engine.postgres.admin()) as admin:
            admin.execute(f'DROP ROLE "{dropped}"')
        wait_until(lambda: user(file) != dropped)
        agent.process.terminate()
        assert agent.end() == 0
    assert engine.leases(role) == []
    with Command(*arguments[:1], "--conninfo", "user=x", *arguments[3:], env=env) as agent:
        assert agent.end() == 125
        assert "conninfo" in agent.err[0]


def test_the_processes_of_a_program_share_the_lease_of_exec(
    engine: DatabaseEngine, unique: Callable[[str], str]
) -> None:
    """They take `provider_from_url()` for what it is, and move with each rotation."""
    role = make_role(engine, unique("share"), default_ttl="10s", max_ttl="10s")
    url, env = vault_url(engine, role.name)
    worker = f"""
import os
from ephemeral_creds import RotatingConnectionPool, provider_from_url
users, queries = set(), 0
with RotatingConnectionPool(provider_from_url(), "", min_size=1, max_size=2) as pool:
    while len(users) < 4:
        with pool.connection() as connection:
            users.add(connection.execute("SELECT current_user").fetchone()[0])
            connection.execute("INSERT INTO {role.table} (worker) VALUES (1)")
        queries += 1
print(queries, flush=True)
"""
    program = f"""
import subprocess, sys
workers = [subprocess.Popen([sys.executable, "-c", {worker!r}]) for _ in range(4)]
sys.exit(max(worker.wait() for worker in workers))
"""
    arguments = ["exec", "--share", "--drain", "4", url, "--", sys.executable, "-c", program]
    roles = Roles(engine, role.name)
    try:
        with Command(*arguments, env=env, command=HURRIED) as running:
            assert running.end() == 0, running.err
    finally:
        roles.close()
    assert len(running.out) == 4
    assert set(roles.seen) <= {0, 1, 2}
    assert engine.leases(role.name) == []
    assert roles.now() == 0


# -- a prefork server --------------------------------------------------------------------------

CONFIGURATION = """
import os, sys, threading
sys.path.insert(0, os.environ["TESTS"])
from handovers import HURRIED
from ephemeral_creds import (
    CredentialKeeper, CredentialsFile, FileProvider, RotatingConnectionPool, provider_from_url,
)

bind, workers, threads, worker_class = "127.0.0.1:0", 4, 2, "gthread"
FILE = os.environ["CREDENTIALS_FILE"]

def on_starting(server):
    server.keeper = CredentialKeeper(provider_from_url(), refresh=HURRIED)
    server.keeper.start()
    server.credentials = CredentialsFile(server.keeper, FILE, drain=5.0)
    server.credentials.open()
    threading.Thread(target=rotate, args=(server.keeper,), daemon=True).start()

def rotate(keeper):
    # Only for the test: each line asks for new credentials.
    while os.read(0, 1):
        keeper.refresh()

def post_fork(server, worker):
    provider = FileProvider(FILE)
    import application
    application.pool = RotatingConnectionPool(provider, "", min_size=1, max_size=2)
    application.pool.open()

def worker_exit(server, worker):
    import application
    application.pool.close()

def on_exit(server):
    server.credentials.close()
    server.keeper.close()
"""
APPLICATION = """
import os
def application(environ, start_response):
    with pool.connection() as connection:
        user = connection.execute("SELECT current_user").fetchone()[0]
        connection.execute(f"INSERT INTO {os.environ['JOBS']} (worker) VALUES (1)")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {user}".encode()]
"""


class Requests:
    """Threads that send requests; each failure is kept."""

    def __init__(self, address: str) -> None:
        self.failures: list[str] = []
        self.users: dict[str, str] = {}
        self.count = 0
        self._address = address
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60.0)

    def _work(self) -> None:
        while not self._done.wait(0.02):
            try:
                with urllib.request.urlopen(self._address, timeout=60.0) as reply:
                    worker, _, user = reply.read().decode().partition(" ")
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.users[worker] = user
                self.count += 1


class Roles:
    """The most roles that there were at any of many looks."""

    def __init__(self, engine: DatabaseEngine, role: str) -> None:
        self.seen: Counter[int] = Counter()
        self._query = "SELECT count(*)::int FROM pg_roles WHERE rolname LIKE %s"
        self._pattern = f"v-%-{role[:8]}-%"
        self._engine = engine
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def now(self) -> int:
        with closing(self._engine.postgres.admin()) as admin:
            return self._count(admin)

    def close(self) -> None:
        self._done.set()
        self._thread.join(60.0)

    def _count(self, admin: object) -> int:
        [number] = admin.execute(self._query, [self._pattern]).fetchone()  # type: ignore[attr-defined]
        return int(number)

    def _work(self) -> None:
        with closing(self._engine.postgres.admin()) as admin:
            while not self._done.wait(0.05):
                self.seen[self._count(admin)] += 1


@pytest.fixture
def gunicorn(
    engine: DatabaseEngine, unique: Callable[[str], str], tmp_path: Path, canary: Canary
) -> Iterator[tuple[Command, str]]:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    role = make_role(engine, unique("shared"), default_ttl="1h", max_ttl="24h")
    canary.allow_secret_file(tmp_path)
    (tmp_path / "configuration.py").write_text(CONFIGURATION)
    (tmp_path / "application.py").write_text(APPLICATION)
    url, env = vault_url(engine, role.name)
    env |= {
        "EPHEMERAL_CREDS_URL": url,
        "CREDENTIALS_FILE": str(tmp_path / "db.json"),
        "JOBS": role.table,
        "TESTS": __file__.rpartition("/")[0],
    }
    command = (sys.executable, "-m", "gunicorn")
    arguments = ("--config", "configuration.py", "application:application")
    with Command(*arguments, env=env, command=command, cwd=tmp_path) as server:
        yield server, role.name


def test_the_workers_of_a_prefork_server_share_one_role(
    engine: DatabaseEngine, gunicorn: tuple[Command, str], tmp_path: Path
) -> None:
    """One role at a time, two during a rotation; no request fails, and no role is left."""
    server, role = gunicorn

    def address() -> str:
        found = re.search(r"Listening at: (http://\S+)", "\n".join(server.err))
        return found[1] if found else ""

    wait_until(lambda: address() != "")
    file = tmp_path / "db.json"
    roles, requests = Roles(engine, role), Requests(address())
    try:
        for _ in range(3):
            before = user(file)
            wait_until(lambda: [*requests.users.values()] == [before] * 4)  # noqa: B023
            server.write("x")
            wait_until(lambda: user(file) != before)  # noqa: B023
            wait_until(lambda: [*requests.users.values()] == [user(file)] * 4)
            wait_until(lambda: roles.now() == 1)
    finally:
        requests.close()
        roles.close()
    assert requests.failures == []
    assert requests.count > 100
    assert set(roles.seen) <= {1, 2}
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert not file.exists()
    assert engine.leases(role) == []
    assert roles.now() == 0
