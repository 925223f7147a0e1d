"""``ephemeral-creds exec`` in a terminal, started by a shell with job control."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from commands import COMMAND, SAY, Source, client, environment
from minting import PATIENCE
from twins import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer

pty = pytest.importorskip("pty", reason="no terminals here")
termios = pytest.importorskip("termios", reason="no terminals here")

pytestmark = pytest.mark.slow

# What a shell does with a job: a process group of its own, in the foreground until it stops.
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
print("job", job, flush=True)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        print("status", os.waitstatus_to_exitcode(status), flush=True)
        break
    print("stopped", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
    print("continued", flush=True)
"""

PROGRAM = f"""{SAY}
def tell(number, _):
    say("got", signal.Signals(number).name)
    if number == signal.SIGTERM:
        sys.exit(7)
for name in ("INT", "QUIT", "WINCH", "TERM"):
    signal.signal(getattr(signal, "SIG" + name), tell)
say("up")
stay()
"""


class Terminal:
    """A terminal in which a shell runs one job."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, *COMMAND, *arguments],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._read_to = 0
        self.job = int(self.wait_for("job").split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (self.job, self._shell.pid):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._shell.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    @property
    def settled(self) -> bool:
        """Whether no signal is pending for the job: the system merges another like it into it."""
        status = Path(f"/proc/{self.job}/status")
        return not status.exists() or "ShdPnd:\t0000000000000000" in status.read_text()

    def wait_for(self, text: str) -> str:
        """Wait for a line that has a text, after what was waited for before; return the line."""
        give_up_at = time.monotonic() + PATIENCE
        while True:
            at = self.shown.find(text, self._read_to)
            end = self.shown.find("\n", at)
            if at >= 0 <= end:
                self._read_to = end
                return self.shown[at:end].strip()
            left = give_up_at - time.monotonic()
            ready, _, _ = select.select([self._master], [], [], max(left, 0.0))
            assert ready, self.shown
            try:
                self.shown += os.read(self._master, 4096).decode()
            except OSError:
                raise AssertionError(f"the terminal was closed: {self.shown}") from None


@pytest.fixture
def source(
    postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, canary: Canary
) -> Iterator[Source]:
    source = Source(postgres, unique("terminal"), tmp_path, canary)
    yield source
    source.drop_all()


@pytest.fixture
def env(postgres: PostgresServer) -> dict[str, str]:
    return environment(postgres, PAGER="cat")


def test_a_terminal_s_signals_come_once_and_job_control_works(
    source: Source, env: dict[str, str]
) -> None:
    with Terminal("exec", source.url, "--", sys.executable, "-c", PROGRAM, env=env) as terminal:
        terminal.wait_for("up")
        terminal.type("\x03")
        terminal.wait_for("got SIGINT")
        # Each comes after what the first might have left.
        terminal.type("\x1c")
        terminal.wait_for("got SIGQUIT")
        termios.tcsetwinsize(terminal._master, (40, 100))
        terminal.wait_for("got SIGWINCH")
        wait_until(lambda: terminal.settled)
        # Not from the terminal: it is passed on.
        os.kill(terminal.job, signal.SIGINT)
        terminal.wait_for("got SIGINT")
        terminal.type("\x1a")
        terminal.wait_for("stopped")
        terminal.type("fg\n")
        terminal.wait_for("continued")
        terminal.type("\x03")
        terminal.wait_for("got SIGINT")
        os.kill(terminal.job, signal.SIGTERM)
        terminal.wait_for("got SIGTERM")
        assert terminal.wait_for("status") == "status 7"
        assert terminal.shown.count("got SIGINT") == 3
        assert terminal.shown.count("stopped") == 1


def test_psql_cancels_a_query_and_goes_on(
    postgres: PostgresServer, source: Source, env: dict[str, str]
) -> None:
    with Terminal("exec", source.url, "--", client("psql"), "-X", env=env) as terminal:
        terminal.wait_for("psql (")
        terminal.type("SELECT pg_sleep(600);\n")
        with closing(postgres.admin()) as admin:
            query = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event = 'PgSleep'"
            wait_until(lambda: admin.execute(query, [source.role()]).rowcount == 1)
        terminal.type("\x03")
        terminal.wait_for("canceling statement due to user request")
        terminal.type("SELECT 'still ' || current_user;\n")
        terminal.wait_for(f"still {source.role()}")
        terminal.type("\\q\n")
        assert terminal.wait_for("status") == "status 0"
