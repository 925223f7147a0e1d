"""Servers and workers with several processes, as docs/how-to/prefork-servers.md sets them up.

Each process rotates after every few requests or tasks, and each revocation ends the sessions of
the role that it drops.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from load import Load
from minting import PATIENCE, RoleProvider
from scripts import NOISE, environment_of, run
from twins import wait_until

from ephemeral_creds.testing._process import OwnedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no fork here"),
]

PAGE = Path(__file__).parents[2] / "docs/how-to/prefork-servers.md"
PATH_ON_PAGE = "/run/my-app/db.json"
GENERATIONS = 6

# What stands on the page, and what tests have for it.
IN_TESTS = {
    'VaultDynamicProvider("my-app-role", auth=KubernetesAuth("my-app"))': (
        "__import__('scripts').roles_of_process()"
    ),
    '"host=db dbname=mydb"': (
        "__import__('scripts').CONNINFO, refresh=__import__('scripts').AT_ONCE"
    ),
    "CredentialKeeper(provider)": (
        "CredentialKeeper(provider, refresh=__import__('scripts').AT_ONCE)"
    ),
}

SERVICE = """\
import itertools
pool = None
requests = itertools.count(1)

def app(environ, start_response):
    with pool.connection() as connection:
        (user,) = connection.execute("SELECT current_user::text").fetchone()
    if next(requests) % 10 == 0:
        pool.refresh()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [user.encode()]
"""


def on_page(heading: str, language: str = "python", number: int = 0) -> str:
    """Return a block of a section of the page, for the servers of the tests."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    code = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]
    for there, here in IN_TESTS.items():
        code = code.replace(there, here)
    return str(code)


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


class Roles(Load):
    """Requests that are answered with the role that they ran as, of each process."""

    def __init__(self, address: str) -> None:
        super().__init__(self._request)
        self.generations: dict[str, set[int]] = defaultdict(set)
        self._address = address

    def _request(self) -> None:
        with urllib.request.urlopen(self._address, timeout=PATIENCE) as answer:
            self.note(answer.read().decode().strip('"'))

    def note(self, role: str) -> None:
        process, _, generation = role.rpartition("_")
        self.generations[process].add(int(generation))

    def rotated(self, processes: int) -> bool:
        """Tell whether so many processes have come to `GENERATIONS`."""
        reached = [max(seen, default=0) for seen in list(self.generations.values())]
        return sum(generation >= GENERATIONS for generation in reached) >= processes


class Server:
    """A program that runs until the block ends."""

    def __init__(self, *command: object, folder: Path, environment: dict[str, str]) -> None:
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.process.terminate()
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait(PATIENCE)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def noise(self) -> list[str]:
        return [line for line in self.said.splitlines() if any(word in line for word in NOISE)]


class Folder:
    """What a server's processes import, and their environment."""

    def __init__(self, postgres: PostgresServer, prefix: str, path: Path) -> None:
        self.postgres = postgres
        self.prefix = prefix
        self.path = path
        self.environment = environment_of(postgres, prefix) | {"C_FORCE_ROOT": "1"}
        self.port = free_port()

    def write(self, name: str, *parts: str) -> None:
        (self.path / name).write_text("\n".join(parts))

    def start(self, *command: object) -> Server:
        return Server(*command, folder=self.path, environment=self.environment)

    def serve(self, *command: object, ends: tuple[int, ...] = (0,)) -> None:
        """Send requests until two processes of the server have rotated several times; end it."""
        address = f"http://127.0.0.1:{self.port}/"
        with self.start(*command) as server:
            wait_until(lambda: answers(address) or server.process.poll() is not None)
            with Roles(address) as load:
                wait_until(lambda: load.failures or load.rotated(2), "rotations")
        assert (load.failures, server.noise) == ([], []), server.said
        assert load.rotated(2), server.said
        assert server.process.returncode in ends, server.said
        assert self.postgres.roles(self.prefix) == [], server.said


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@pytest.fixture
def folder(postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path) -> Folder:
    return Folder(postgres, unique("workers"), tmp_path)


# -- servers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_gunicorn(folder: Folder, kind: str, preload: bool) -> None:
    need("gunicorn", *(["gevent"] if kind == "gevent" else []))
    folder.write("my_service.py", SERVICE)
    section = "gunicorn with gevent" if kind == "gevent" else "gunicorn"
    folder.write("gunicorn.conf.py", on_page(section))
    folder.serve(
        *(sys.executable, "-m", "gunicorn", "--workers", 2, "--worker-class", kind),
        *("--bind", f"127.0.0.1:{folder.port}", *(["--preload"] if preload else [])),
        *(["--threads", 4] if kind == "gthread" else []),
        "my_service:app",
    )


ROUTE = """
import itertools
from fastapi import Request
requests = itertools.count(1)

@app.get("/")
async def user(request: Request) -> str:
    pool = request.app.state.pool
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT current_user::text")
        (user,) = await cursor.fetchone()
    if next(requests) % 10 == 0:
        await pool.refresh()
    return user
"""


def test_uvicorn(folder: Folder) -> None:
    need("fastapi", "uvicorn")
    folder.write("my_service.py", on_page("uvicorn"), ROUTE)
    folder.serve(
        *(sys.executable, "-m", "uvicorn", "my_service:app", "--workers", 2),
        *("--port", folder.port, "--log-level", "warning"),
        # Its parent lets a signal through once more, in some versions.
        ends=(0, -15),
    )


def test_uwsgi(folder: Folder) -> None:
    program = shutil.which("uwsgi", path=str(Path(sys.executable).parent)) or shutil.which("uwsgi")
    if program is None:
        pytest.skip("uwsgi is not installed (pyuwsgi has it in a wheel)")
    folder.write("my_service.py", SERVICE.replace("pool = None", ""), on_page("uWSGI"))
    settings = on_page("uWSGI", "ini").replace("processes = 4", "processes = 2")
    folder.write("uwsgi.ini", settings, f"http-socket = 127.0.0.1:{folder.port}\n")
    folder.serve(program, "--ini", "uwsgi.ini")


# -- workers -----------------------------------------------------------------------------------

TASKS = """
import itertools, os, time
from pathlib import Path
from celery import Celery

app = Celery("tasks", broker="filesystem://", broker_transport_options={
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control",
})
tasks = itertools.count(1)

@app.task
def work(number):
    # A process that starts late must not find that the other one has done all of them.
    Path(f"{os.getpid()}.here").touch()
    while len(list(Path().glob("*.here"))) < PROCESSES:
        time.sleep(0.01)
    with pool.connection() as connection:
        (user,) = connection.execute("SELECT current_user::text").fetchone()
    if next(tasks) % 5 == 0:
        pool.refresh()
    Path(f"{number}.done").write_text(user)
"""


@pytest.mark.parametrize(("pool", "processes"), [("prefork", 2), ("threads", 1)])
def test_celery(folder: Folder, pool: str, processes: int) -> None:
    need("celery")
    opens = on_page("Celery")
    if pool == "threads":
        opens = opens.replace("worker_process_init", "worker_init")
        opens = opens.replace("min_size=1", "min_size=4")
    folder.write("tasks.py", opens, TASKS.replace("PROCESSES", str(processes)))
    for name in ("queue", "control"):
        (folder.path / name).mkdir()
    sending = "import tasks; [tasks.work.delay(number) for number in range(160)]"
    subprocess.run(
        [sys.executable, "-c", sending], cwd=folder.path, env=folder.environment, check=True
    )
    concurrency = 4 if pool == "threads" else 2
    with folder.start(
        *(sys.executable, "-m", "celery", "--app", "tasks", "worker"),
        *("--pool", pool, "--concurrency", concurrency, "--loglevel", "WARNING"),
    ) as worker:
        wait_until(lambda: len(list(folder.path.glob("*.done"))) == 160 or "raised" in worker.said)
    assert worker.noise == [], worker.said
    load = Roles("")
    for path in folder.path.glob("*.done"):
        load.note(path.read_text())
    assert load.rotated(processes), load.generations
    assert folder.postgres.roles(folder.prefix) == []


WORK = """

def work(number):
    with pool.connection() as connection:
        (user,) = connection.execute("SELECT current_user::text").fetchone()
    if number % 4 == 0:
        pool.refresh()
    return user
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(
    postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, method: str
) -> None:
    (tmp_path / "my_work.py").write_text(on_page("multiprocessing") + WORK)
    program = f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import my_work
        if __name__ == "__main__":
            with my_work.executor({method!r}) as workers:
                for user in workers.map(my_work.work, range(200)):
                    print(user)
        """
    ended = run(postgres, prefix := unique("children"), textwrap.dedent(program))
    assert (ended.code, ended.noise) == (0, []), ended.err
    load = Roles("")
    for user in ended.out.split():
        load.note(user)
    assert sum(map(len, load.generations.values())) > 4 + 20, load.generations
    assert postgres.roles(prefix) == []


class Redis(OwnedProcess):
    """A redis-server without a file."""

    _NAME = "redis"

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program
        self.port = free_port()

    def _bring_up(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._spawn([self._program, *options, "--dir", str(self._make_folder())])


@pytest.fixture
def jobs() -> Iterator[tuple[Any, list[object]]]:
    """A queue of rq's, and the command of a worker that ends when it is empty."""
    need("rq", "redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian's package of that name)")
    import redis
    import rq

    with Redis(program) as server, redis.Redis(port=server.port) as connection:
        wait_until(lambda: responds(connection))
        url = f"redis://127.0.0.1:{server.port}"
        command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", url]
        yield rq.Queue(connection=connection), [*command]


def responds(connection: Any) -> bool:
    import redis

    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False


ROTATING = """
import threading

class Rotating(LeasedWorker):
    def execute_job(self, *args):
        # New credentials come while the job runs.
        rotation = threading.Thread(target=self.keeper.refresh)
        rotation.start()
        super().execute_job(*args)
        rotation.join()
"""


def test_rq_with_a_file_of_the_parent(
    folder: Folder, jobs: tuple[Any, list[object]], canary: Canary
) -> None:
    queue, command = jobs
    path = folder.path / "db.json"
    canary.allow_secret_file(path)
    folder.write("my_tasks.py", on_page("rq").replace(PATH_ON_PAGE, str(path)))
    code = on_page("rq", number=1).replace(PATH_ON_PAGE, str(path))
    folder.write("my_worker.py", code, ROTATING)
    enqueued = [queue.enqueue("my_tasks.job") for _ in range(10)]
    folder.environment["PYTHONPATH"] += f":{folder.path}"
    with folder.start(*command, "--worker-class", "my_worker.Rotating") as worker:
        worker.process.wait(2 * PATIENCE)
    assert worker.noise == [], worker.said
    load = Roles("")
    for job in enqueued:
        assert job.get_status() == "finished", worker.said
        load.note(job.return_value()[0])
    assert load.rotated(1), load.generations
    assert not path.exists()
    assert folder.postgres.roles(folder.prefix) == []


TURN = """
import time
from pathlib import Path

def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)
"""


def test_rq_with_a_file_of_a_sidecar(
    folder: Folder, jobs: tuple[Any, list[object]], canary: Canary
) -> None:
    """A sidecar writes it during each job, and revokes what was in it two rotations ago."""
    queue, command = jobs
    path = folder.path / "db-creds.txt"
    canary.allow_secret_file(path)
    code = on_page("rq").replace(PATH_ON_PAGE, str(path))
    folder.write("my_tasks.py", code)
    folder.write("turn.py", TURN)
    folder.environment["PYTHONPATH"] += f":{folder.path}"
    provider = RoleProvider(folder.postgres, folder.prefix)
    enqueued, turns = [], {number: folder.path / f"turn{number}" for number in range(2, 12)}
    for number in range(1, 11):
        enqueued.append(queue.enqueue("my_tasks.job"))
        if number > 1:
            # So that the jobs cannot outrun the sidecar, which revokes.
            queue.enqueue("turn.wait_for", str(turns[number]))

    def finished() -> int:
        return sum(job.get_status() in ("finished", "failed") for job in enqueued)

    try:
        write(path, provider, 1)
        with folder.start(*command) as worker:
            for number in range(2, 12):
                wait_until(lambda n=number: finished() >= n - 1)  # type: ignore[misc]
                write(path, provider, number)
                turns[number].touch()
            worker.process.wait(PATIENCE)
        assert worker.noise == [], worker.said
        assert [job.get_status() for job in enqueued] == ["finished"] * 10, worker.said
        used = [int(job.return_value()[0].rpartition("_")[2]) for job in enqueued]
        assert all(number - 1 <= role <= number for number, role in enumerate(used, 1)), used
    finally:
        provider.disconnect()


def write(path: Path, provider: RoleProvider, number: int) -> None:
    credentials = provider._mint(number)
    text = f"DB_USERNAME={credentials.username}\nDB_PASSWORD={credentials.password.reveal()}\n"
    new = path.with_name("new")
    new.touch(0o600)
    new.write_text(text)
    new.rename(path)
    if number > 2:
        provider._admin.execute(f'DROP ROLE "{provider.prefix}_{number - 2}"'.encode())
