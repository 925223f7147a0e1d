"""Under gevent and eventlet, whose threads are not the system's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import PATIENCE
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.testing import PostgresServer

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

WATCH = """\
import logging, os, sys, threading, time
from pathlib import Path
from ephemeral_creds import CredentialKeeper, FileProvider
errors = []
threading.excepthook = lambda args: errors.append(args.exc_type.__name__)
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
path = Path(sys.argv[1])
def write(user):
    path.with_name("new").write_text(f"DB_USERNAME={user}\\nDB_PASSWORD=secret\\n")
    path.with_name("new").chmod(0o600)
    path.with_name("new").rename(path)
write("a")
keeper = CredentialKeeper(FileProvider(path, poll_interval=0.05), observers=())
with keeper:
    keeper.wait()
    before = threading.active_count()
    for user in ("b", "c"):
        write(user)
        while keeper.current().credentials.username != user:
            time.sleep(0.05)
    time.sleep(0.5)  # ten polls
    assert threading.active_count() == before, threading.enumerate()
assert not errors, errors
"""


@pytest.mark.parametrize("library", PATCHES)
def test_a_file_is_watched_by_polls(library: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    ended = subprocess.run(
        [sys.executable, "-c", f"{PATCHES[library]}\n{WATCH}", str(tmp_path / "creds")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = [line for line in ended.stdout.splitlines() if "notifications" in line]
    assert len(said) == 1
    assert f"{library} has replaced the system's threads" in said[0]


SERVICE = """\
import os

def app(environ, start_response):
    with pool.connection() as connection:
        connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [int(os.environ["LOCK"])])
    start_response("200 OK", [])
    return [b"done"]
"""

CONFIG = """\
import os

def post_worker_init(worker):
    from ephemeral_creds import FileProvider, RotatingConnectionPool
    import service
    provider = FileProvider(os.environ["CREDS"])
    service.pool = RotatingConnectionPool(provider, os.environ["CONNINFO"], min_size=4)
    service.pool.open()

def worker_exit(server, worker):
    import service
    service.pool.close()
"""


def test_queries_overlap_in_a_gevent_worker(
    postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Four requests wait for one lock, which each of them has to ask for to be seen waiting."""
    for package in ("gunicorn", "gevent"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    user, lock = unique("green"), 4711
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    creds = tmp_path / "creds"
    creds.write_text(f"DB_USERNAME={user}\nDB_PASSWORD=green-password\n")
    creds.chmod(0o600)
    environment = os.environ | {
        "CREDS": str(creds),
        "CONNINFO": postgres.conninfo(),
        "LOCK": str(lock),
    }
    with closing(postgres.admin()) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'green-password'").format(sql.Identifier(user))
        )
        admin.execute("SELECT pg_advisory_lock(%s)", [lock])
        with Gunicorn(tmp_path, environment) as url, ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(get, url) for _ in range(4)]
            try:
                wait_for_waiting(admin, user, 4)
            finally:
                admin.execute("SELECT pg_advisory_unlock(%s)", [lock])
            assert [answer.result() for answer in answers] == [b"done"] * 4
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


class Gunicorn:
    """A gunicorn with one gevent worker."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent"),
                *("--workers", "1", "--bind", "127.0.0.1:0", "service:app"),
            ],
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "Listening at: " in line:
                self._reader = threading.Thread(target=self._process.stderr.read)
                self._reader.start()
                return line.split("Listening at: ")[1].split()[0]
        raise AssertionError("gunicorn did not start")

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()
            self._reader.join(PATIENCE)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return bytes(answer.read())


def wait_for_waiting(admin: psycopg.Connection[tuple[object, ...]], user: str, count: int) -> None:
    """Wait until so many sessions of `user` wait for the lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND wait_event = 'advisory'"
    pause = threading.Event()
    waiting: object = 0
    for _ in range(int(PATIENCE / 0.05)):
        row = admin.execute(query, [user]).fetchone()
        assert row is not None
        (waiting,) = row
        if waiting == count:
            return
        pause.wait(0.05)
    raise AssertionError(f"{waiting} of {count} queries at once")
