"""Child processes: servers with their ports, users and folders, and calls after a fork."""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "OwnedProcess",
    "end_process",
    "free_port",
    "in_child",
    "plain_environment",
    "private_file",
    "unprivileged_user",
    "wait_until",
]

_T = TypeVar("_T")
_POLL = 0.005
_HOST = "127.0.0.1"

# Below those that systems hand out themselves, to clients and where a server asks for any port:
# from 32768 on Linux, from 49152 on macOS.
_PORTS = range(16384, 32768)
_PORT_ATTEMPTS = 100

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
_GUARD = 'read -r dismissed && exit 0; kill -INT "$1"; sleep 2; kill -KILL "-$1"; rm -rf "$2"'


def free_port() -> int:
    """Return a port of 127.0.0.1 for a server that sets ``SO_REUSEADDR``, as servers do on POSIX.

    No system gives it to a client, or to a server that asks for any port: one that is stopped finds
    it free when it starts again. Other calls, in any process, do not choose it for as long as a
    connection stays in the state TIME-WAIT: a minute on Linux, time enough to start the server.

    Raises:
        ConfigurationError: no port is free.
    """
    for _ in range(_PORT_ATTEMPTS):
        port = secrets.choice(_PORTS)
        with suppress(OSError):
            _reserve(port)
            return port
    raise ConfigurationError(
        f"no free port from {_PORTS.start} to {_PORTS.stop - 1} on {_HOST}: this system may not "
        "allow to listen there"
    )


def _reserve(port: int) -> None:
    with socket.socket() as listener:
        # Without SO_REUSEADDR, which would have it take a port that is in TIME-WAIT already.
        listener.bind((_HOST, port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(1)
        with socket.create_connection((_HOST, port)) as client:
            # The end that is closed first gets into TIME-WAIT.
            listener.accept()[0].close()
            client.recv(1)


def private_file(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, and return its path."""
    path.touch(0o600)
    path.write_text(text)
    return path


def plain_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without the caller's settings.

    ``PG…`` and ``VAULT_…`` variables would bend the servers, and proxy variables would send a
    server's own requests to 127.0.0.1 elsewhere.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"} | dict(extra or {})


def unprivileged_user() -> dict[str, Any]:
    """Return whom to run PostgreSQL as, in arguments of `subprocess.Popen`: root it refuses.

    Raises:
        ConfigurationError: running as root, and the system has neither of the usual users.
    """
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise ConfigurationError(
        "PostgreSQL refuses to run as root and this system has neither a user 'postgres' nor "
        "'nobody': run the tests as an ordinary user"
    )


def wait_until(condition: Callable[[], _T], timeout: float) -> _T:
    """Return what `condition` returns: once it is true, or after `timeout` seconds."""
    give_up_at = time.monotonic() + timeout
    while not (found := condition()) and time.monotonic() < give_up_at:
        time.sleep(_POLL)
    return found


def end_process(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    """End a process that leads its own session, and everything it started.

    Args:
        process: the process; nothing happens if it has ended already.
        steps: signals to try, each with the seconds to wait after it; SIGKILL comes last.
    """
    for signum, patience in steps:
        if process.poll() is not None:
            break
        process.send_signal(signum)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.poll() is None:
        # The whole session: a server's workers would outlive a killed leader.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class OwnedProcess:
    """A program that runs for this process alone, and the folder that it runs in.

    It may be started again and again. `close`, the end of a ``with`` block and the interpreter's
    exit remove process and folder, and so does a guard soon after this process died without a
    chance to. After a fork only the parent does.
    """

    _NAME = "program"

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def folder(self) -> Path:
        """Where it runs.

        Raises:
            RuntimeError: there is no such folder yet, or no longer.
        """
        if self._folder is None:
            raise RuntimeError(f"the {self._NAME} has not been started")
        return self._folder

    def start(self) -> Self:
        """Start it; nothing happens if it runs.

        Raises:
            ConfigurationError: it would not start.
        """
        if not self.running:
            try:
                self._bring_up()
            except BaseException:  # Ctrl-C included: leave nothing behind
                self.close()
                raise
        return self

    def stop(self) -> None:
        """Stop it; nothing happens if it does not run."""
        self._end((signal.SIGINT, 10.0))

    def close(self) -> None:
        """Stop it and remove its folder. May be called again."""
        self.stop()
        self._remove()

    def _bring_up(self) -> None:
        raise NotImplementedError

    def _make_folder(self) -> Path:
        """Return the folder, and create it if necessary."""
        if self._folder is None:
            atexit.register(self.close)
            self._folder = Path(tempfile.mkdtemp(prefix=f"ephemeral-creds-{self._NAME}-"))
        return self._folder

    def _spawn(
        self,
        arguments: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        run_as: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the program; what it says goes to the end of the file ``log``.

        Every user of the machine can read its arguments. `environment` comes to the plain one.
        """
        with (self.folder / "log").open("ab") as said:
            # A session of its own: Ctrl-C in a terminal must not end it before the tests have put
            # away what they hold.
            self._process = subprocess.Popen[bytes](
                arguments,
                cwd=self.folder,
                env=plain_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                **(run_as or {}),
            )
        # For SIGTERM, SIGKILL and crashes: it waits on a pipe that only this process holds open.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _send(self, signum: signal.Signals) -> subprocess.Popen[bytes] | None:
        """Send a signal, and return the process; ``None`` if none of ours runs."""
        process = self._process
        if process is None or process.poll() is not None or os.getpid() != self._owner:
            return None
        process.send_signal(signum)
        return process

    def _end(self, *steps: tuple[signal.Signals, float]) -> None:
        """End the process; `steps` are as for `end_process`."""
        if os.getpid() != self._owner:
            return
        process, self._process = self._process, None
        if process is not None:
            end_process(process, *steps)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(b"dismissed\n")

    def _remove(self) -> None:
        if os.getpid() != self._owner:
            return
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        atexit.unregister(self.close)


def in_child(call: Callable[[], object], patience: float) -> str:
    """Make a call in a child of a fork, for `patience` seconds; return what went wrong, or nothing.

    For a call that has to work there, whatever locks and sockets the child has from its parent.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on, of the threads that this process may have.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        said = ""
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the child ends here
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode()[:4000])
            os._exit(0)
    os.close(writer)
    # What it says fits into the pipe, so that it need not be read before the child's end.
    ended = wait_until(lambda: os.waitpid(child, os.WNOHANG)[0], patience)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    waits = f"no end within {patience:g} s: it may wait for a lock or a socket of its parent"
    return said if ended else waits
