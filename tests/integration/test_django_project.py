"""Django's commands and the servers that it runs under, each in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from load import Load, add_and_read
from minting import PATIENCE
from psycopg import sql
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import DatabaseEngine

if importlib.util.find_spec("django") is None:
    pytest.skip("Django is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2] / "examples" / "django_service"
WAYS = pytest.mark.parametrize(("pool", "age"), [("0", "60"), ("1", "0")], ids=["keep", "pool"])
POOL = pytest.mark.parametrize("pool", ["0", "1"], ids=["connect", "pool"])


@dataclass
class Project:
    """The example's service, with a database and a role in Vault of its own."""

    engine: DatabaseEngine
    role: str
    owner: str
    database: str
    environment: dict[str, str] = field(repr=False)

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Django's to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def migrated(self, **environment: str) -> None:
        done = self.manage("migrate", "--verbosity", "0", **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def ended(self, *mints: int) -> None:
        """Check that so many roles were minted, and that none of them is left."""
        assert self.engine.mints(self.role) in mints
        assert self.engine.leases(self.role) == []


@pytest.fixture
def project(engine: DatabaseEngine, unique: Callable[[str], str]) -> Iterator[Project]:
    role, owner, database = unique("role"), unique("owner"), unique("shop")
    engine.create_role(role, grants=[f'GRANT "{owner}" TO "{{{{name}}}}"'])
    login = engine.admin.create_approle(f"use-{role}", [engine.policy(role)])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_", "PG"))}
    url = f"vault://{role}?auth=approle&role_id={login.role_id}&secret_id_env=SECRET_ID"
    environment = kept | {
        "VAULT_ADDR": engine.vault.address,
        "SECRET_ID": login.secret_id.reveal(),
        "EPHEMERAL_CREDS_URL": url,
        "DB_HOST": engine.postgres.host,
        "DB_PORT": str(engine.postgres.port),
        "DB_NAME": database,
        "DB_OWNER": owner,
        "SECRET_KEY": "of-django",
    }
    names = {"owner": sql.Identifier(owner), "database": sql.Identifier(database)}
    with closing(engine.postgres.admin()) as admin:
        admin.execute(sql.SQL("CREATE ROLE {owner} CREATEDB").format(**names))
        admin.execute(sql.SQL("CREATE DATABASE {database} OWNER {owner}").format(**names))
        yield Project(engine, role, owner, database, environment)
        admin.execute(sql.SQL("DROP DATABASE {database} WITH (FORCE)").format(**names))
        admin.execute(sql.SQL("DROP ROLE {owner}").format(**names))


@POOL
def test_migrate_makes_tables_that_belong_to_a_role_that_stays(project: Project, pool: str) -> None:
    project.migrated(DB_POOL=pool)
    with closing(project.engine.postgres.admin(project.database)) as admin:
        owners = admin.execute(
            "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
    assert owners == [(project.owner,)]
    project.ended(1)


@POOL
def test_tests_run_in_a_database_of_their_own(project: Project, pool: str) -> None:
    done = project.manage("test", "--noinput", DB_POOL=pool)
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
    project.ended(1)


def test_tests_run_in_parallel(project: Project) -> None:
    done = project.manage("test", "--noinput", "--parallel", "2", DB_POOL="1")
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
    # A process that starts late finds that the other one has run both.
    project.ended(2, 3)


class TestDbshell:
    """It gives the user and the password to psql."""

    def test_they_are_in_the_environment_only(self, project: Project, tmp_path: Path) -> None:
        psql = tmp_path / "psql"
        psql.write_text('#!/bin/sh\necho "$@"; echo $PGUSER; echo $PGPASSWORD; echo $PGOPTIONS\n')
        psql.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = project.manage("dbshell", "--", "-c", "SELECT 1", PATH=path)
        assert done.returncode == 0, done.stderr
        arguments, user, password, options = done.stdout.splitlines()
        server = project.engine.postgres
        assert arguments == (f"-h {server.host} -p {server.port} -c SELECT 1 {project.database}")
        assert user.startswith("v-")
        assert password
        assert options == f"-c role={project.owner}"
        project.ended(1)

    @pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql")
    def test_psql_logs_in(self, project: Project) -> None:
        query = "SELECT current_user, session_user LIKE 'v-%'"
        done = project.manage("dbshell", "--", "-Atc", query)
        assert done.stdout.splitlines() == [f"{project.owner}|t"], done.stderr
        project.ended(1)


class Server:
    """A server of the service, which says where it listens."""

    def __init__(self, project: Project, *command: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", *command],
            cwd=PROJECT,
            env=project.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._listens = threading.Event()
        self._url = ""
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        assert self._listens.wait(PATIENCE), self.said
        assert self._url, self.said
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            if "runserver" in self._process.args:  # type: ignore[operator]
                # A terminal sends it to both processes. The one that watches then gives the other
                # a quarter of a second before it kills it, which a busy machine exceeds.
                os.kill(self._serving(), signal.SIGINT)
            else:
                self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
                self._reader.join(PATIENCE)

    @property
    def said(self) -> str:
        return "".join(self._said)

    def ask(self, path: str, method: str) -> Any:
        request = urllib.request.Request(self._url + path, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def _serving(self) -> int:
        """Return the process that another one has started to serve."""
        told = {int(pid) for pid in re.findall(r"^process (\d+)$", self.said, re.MULTILINE)}
        [serving] = told - {self._process.pid}
        return serving

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            for word in line.split():
                if word.startswith("http://127.0.0.1:") and not self._listens.is_set():
                    self._url = word.rstrip("/")
                    self._listens.set()
        self._listens.set()


def serve(project: Project, *command: str, **environment: str) -> str:
    """Have a server answer requests, stop it, and return what it said."""
    with Server(project, *command, **environment) as server, Load(add_and_read(server.ask)) as load:
        load.goes_on()
        load.goes_on()
    assert load.failures == [], server.said
    assert "Traceback" not in server.said
    return server.said


TASKS = """\
import celery, django
django.setup()
from jobs.models import Job
app = celery.Celery("tasks", broker="filesystem://", broker_transport_options={
    "data_folder_in": "q", "data_folder_out": "q", "control_folder": "c",
})

@app.task
def work(number):
    Job.objects.create(payload=str(number))
    open(f"done-{number}", "w").close()
"""


def test_celery_children_have_one_role_each(project: Project, tmp_path: Path) -> None:
    """Celery closes connections around each task, and pools of Django's own."""
    pytest.importorskip("celery")
    project.migrated()
    (tmp_path / "tasks.py").write_text(TASKS)
    for folder in "qc":
        (tmp_path / folder).mkdir()
    environment = project.environment | {
        "DJANGO_SETTINGS_MODULE": "service.settings",
        "PYTHONPATH": str(PROJECT),
        "DB_POOL": "1",
        "C_FORCE_ROOT": "1",
    }
    send = "import tasks; [tasks.work.delay(n) for n in range(5)]"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, check=True)
    with subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--concurrency", "1"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            wait_until(lambda: len(list(tmp_path.glob("done-*"))) == 5)
            worker.terminate()
            worker.wait(PATIENCE)
        finally:
            worker.kill()
    project.ended(2)


GUNICORN = """\
def when_ready(server):
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
"""


SETTINGS = """\
import os
from service.settings import *
print("process", os.getpid(), flush=True)
"""


class TestServers:
    """Each process has a role of its own, which is revoked at its end."""

    @WAYS
    def test_gunicorn(self, project: Project, pool: str, age: str) -> None:
        pytest.importorskip("gunicorn")
        project.migrated()
        options = ["--workers", "2", "--threads", "2", "--bind", "127.0.0.1:0"]
        serve(project, "gunicorn", *options, "service.wsgi", DB_POOL=pool, DB_AGE=age)
        assert 2 <= project.engine.mints(project.role) <= 3
        assert project.engine.leases(project.role) == []

    @WAYS
    def test_gunicorn_that_loads_the_service_before_it_forks(
        self, project: Project, pool: str, age: str, tmp_path: Path
    ) -> None:
        """The master has even connected."""
        pytest.importorskip("gunicorn")
        project.migrated()
        minted = project.engine.mints(project.role)
        config = tmp_path / "gunicorn.conf.py"
        config.write_text(GUNICORN)
        options = ["--preload", "--config", str(config), "--workers", "2", "--bind", "127.0.0.1:0"]
        serve(project, "gunicorn", *options, "service.wsgi", DB_POOL=pool, DB_AGE=age)
        # Of the master, and of each worker that was sent a request.
        assert 2 <= project.engine.mints(project.role) - minted <= 3
        assert project.engine.leases(project.role) == []

    @POOL
    def test_uvicorn(self, project: Project, pool: str) -> None:
        pytest.importorskip("uvicorn")
        project.migrated()
        serve(project, "uvicorn", "--port", "0", "service.asgi:application", DB_POOL=pool)
        project.ended(2)

    def test_runserver(self, project: Project, tmp_path: Path) -> None:
        """With its reloader, a process that watches and one that serves."""
        project.migrated()
        (tmp_path / "telling_settings.py").write_text(SETTINGS)
        environment = {"DJANGO_SETTINGS_MODULE": "telling_settings", "PYTHONPATH": str(tmp_path)}
        serve(project, "django", "runserver", "127.0.0.1:0", **environment)
        project.ended(2)
