"""Processes that end in order, and by SIGTERM: their leases are revoked before."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from minting import PATIENCE
from scripts import Program, run
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.testing import DatabaseEngine, PostgresServer

METHODS = ["fork", "forkserver", "spawn"]

# Children of the two latter import what they run.
CHILDREN = """\
import multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor
from scripts import *

def serve(tag):
    global pool
    pool = make(Roles(tag), min_size=8)
    pool.open()
    with pool.connection() as connection:
        connection.execute("SELECT 1")

def leave(tag):
    serve(tag)
    sys.exit(3)

def initialize():
    serve(f"worker{os.getpid()}")

def square(number):
    return number * number

def chain(tag):
    serve(tag)
    # From Python 3.12 on, forking a process with threads is warned of; here it is meant.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)
    child = multiprocessing.get_context("fork").Process(target=serve, args=(tag + "s",))
    child.start()
    child.join()
    with pool.connection() as connection:
        connection.execute("SELECT 1")
"""


def run_children(postgres: PostgresServer, prefix: str, folder: Path, body: str) -> None:
    (folder / "children.py").write_text(CHILDREN.replace("from scripts", "import os\nfrom scripts"))
    head = f"import multiprocessing\nsys.path.insert(0, {str(folder)!r})\nfrom children import *\n"
    program = f"{head}if __name__ == '__main__':\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    ended = run(postgres, prefix, program)
    assert (ended.code, ended.out) == (0, "up\n"), ended.err
    assert ended.err == ""
    assert postgres.roles(prefix) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestMultiprocessing:
    @pytest.mark.parametrize("method", METHODS)
    def test_children(
        self, postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, method: str
    ) -> None:
        """One ends by its last line, one by SystemExit; both while their pool still warms up."""
        body = f"""
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=f, args=(f.__name__,)) for f in (serve, leave)]
            for child in children:
                child.start()
            for child in children:
                child.join()
            assert [child.exitcode for child in children] == [0, 3]
            up()
            """
        run_children(postgres, unique("end"), tmp_path, body)

    @pytest.mark.parametrize("method", METHODS)
    def test_workers_of_an_executor(
        self, postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, method: str
    ) -> None:
        body = f"""
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(2, mp_context=context, initializer=initialize) as executor:
                assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
            up()
            """
        run_children(postgres, unique("end"), tmp_path, body)

    def test_a_child_of_a_child(
        self, postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path
    ) -> None:
        body = """
            child = multiprocessing.get_context("fork").Process(target=chain, args=("child",))
            child.start()
            child.join()
            assert child.exitcode == 0
            up()
            """
        run_children(postgres, unique("end"), tmp_path, body)


SERVE = """\
import signal, time
from ephemeral_creds import CredentialKeeper, close_on_sigterm
pool = make(Roles())
pool.open(wait=True)
def wait():
    up()
    with pool.connection() as connection:
        connection.execute("SELECT pg_sleep(60)")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM that can be handled here")
class TestSigterm:
    def check(self, postgres: PostgresServer, prefix: str, body: str, code: int) -> str:
        program = Program(postgres, prefix, SERVE + textwrap.dedent(body))
        program.terminate()
        ended = program.end()
        assert (ended.code, ended.noise) == (code, []), ended.err
        assert postgres.roles(prefix) == []
        return ended.out

    def test_the_process_ends_by_it(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        self.check(postgres, unique("term"), "close_on_sigterm(); wait()", -signal.SIGTERM)

    def test_in_a_thread_while_the_main_one_waits(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        body = """
            close_on_sigterm()
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
            """
        self.check(postgres, unique("term"), body, -signal.SIGTERM)

    def test_in_an_event_loop(self, postgres: PostgresServer, unique: Callable[[str], str]) -> None:
        body = """
            async def main():
                other = make(Roles("async"), "async")
                await other.open(wait=True)
                up()
                await asyncio.sleep(60)
            close_on_sigterm()
            asyncio.run(main())
            """
        self.check(postgres, unique("term"), body, -signal.SIGTERM)

    def test_a_handler_that_was_there_comes_after(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        body = """
            def stop(number, frame):
                print(pool.status().keeper.state, flush=True)
                os._exit(7)
            signal.signal(signal.SIGTERM, stop)
            close_on_sigterm()
            close_on_sigterm()
            wait()
            """
        assert self.check(postgres, unique("term"), body, 7) == "up\nclosed\n"

    def test_the_interrupted_code_may_hold_a_lock_that_closing_needs(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        """As one that writes a line of a log does, and the closing wants to write one, too."""
        body = """
            line = threading.Lock()
            def observe(event):
                with line:
                    pass
            class Told(Roles):
                def close(self):
                    super().close()
                    print("closed", flush=True)
            keeper = CredentialKeeper(Told("other"), observers=[observe])
            keeper.start()
            keeper.wait()
            close_on_sigterm()
            with line:
                up()
                while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                    signal.sigtimedwait([], 0.05)
            threading.Event().wait(60)
            """
        assert self.check(postgres, unique("term"), body, -signal.SIGTERM) == "up\nclosed\n"

    def test_an_ignored_signal_stays_ignored(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        body = """
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            close_on_sigterm()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            up()
            with pool.connection() as connection:
                connection.execute("SELECT 1")
            """
        self.check(postgres, unique("term"), body, 0)

    def test_only_in_the_main_thread(
        self, postgres: PostgresServer, unique: Callable[[str], str]
    ) -> None:
        body = """
            def install():
                try:
                    close_on_sigterm()
                except RuntimeError as error:
                    assert "main thread" in str(error)
                    found.append(error)
            found = []
            thread = threading.Thread(target=install)
            thread.start()
            thread.join()
            assert found and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            up()
            """
        self.check(postgres, unique("term"), body, 0)


TASKS = """\
import os, celery
from ephemeral_creds import *
app = celery.Celery("tasks", broker="filesystem://", broker_transport_options={
    "data_folder_in": "q", "data_folder_out": "q", "control_folder": "c",
})
pool = None

@app.task
def work():
    global pool
    if pool is None:
        auth, config = TokenAuth(os.environ["TOKEN"]), VaultConfig(os.environ["VAULT"])
        provider = VaultDynamicProvider(os.environ["ROLE"], auth=auth, config=config)
        pool = RotatingConnectionPool(provider, os.environ["CONNINFO"], min_size=1, open=True)
    with pool.connection() as connection:
        (user,) = connection.execute("SELECT current_user::text").fetchone()
    open(f"used-{user}", "w").close()
"""


def test_celery_children(
    engine: DatabaseEngine, postgres: PostgresServer, role: str, tmp_path: Path
) -> None:
    """One is recycled after two tasks, the other is shut down with the worker."""
    if importlib.util.find_spec("celery") is None:
        pytest.skip("celery is not installed")
    (tmp_path / "tasks.py").write_text(TASKS)
    for folder in "qc":
        (tmp_path / folder).mkdir()
    environment = os.environ | {
        "VAULT": engine.vault.address,
        "TOKEN": engine.vault.root_token.reveal(),
        "ROLE": role,
        "CONNINFO": postgres.conninfo(),
        "C_FORCE_ROOT": "1",
    }
    sending = "import tasks; [tasks.work.delay() for _ in range(3)]"
    subprocess.run([sys.executable, "-c", sending], cwd=tmp_path, env=environment, check=True)
    options = ["--concurrency", "1", "--max-tasks-per-child", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "tasks", "worker", *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            wait_until(lambda: len(list(tmp_path.glob("used-*"))) == 2)
            worker.terminate()
            worker.wait(PATIENCE)
        finally:
            worker.kill()
    users = [path.name.removeprefix("used-") for path in tmp_path.glob("used-*")]
    with closing(postgres.admin()) as admin:
        left = admin.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [users])
        assert left.fetchall() == []
    assert engine.leases(role) == []
