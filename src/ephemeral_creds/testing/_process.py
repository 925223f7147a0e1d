"""What the servers that run as processes share: a free port, a user to run as, a certain end."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, TypedDict

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "Guard",
    "RunAs",
    "check_reachable",
    "end_process",
    "free_port",
    "plain_environment",
    "private_file",
    "unprivileged_user",
    "wait_until_stopped",
]

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class RunAs(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that choose a user; empty: the current one."""

    user: int
    group: int
    extra_groups: list[int]


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def private_file(path: Path, text: str) -> Path:
    """Write a file that nobody else can read, and return its path."""
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


def unprivileged_user() -> RunAs:
    """Return whom to run PostgreSQL as: it refuses to run as root.

    Raises:
        ConfigurationError: running as root, and the system has neither of the usual users.
    """
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise ConfigurationError(
        "PostgreSQL refuses to run as root and this system has neither a user 'postgres' nor "
        "'nobody': run the tests as an ordinary user"
    )


def check_reachable(folder: Path, run_as: RunAs) -> None:
    """See that PostgreSQL can get at its temporary folder.

    Raises:
        ConfigurationError: it runs as another user, who cannot enter a folder above.
    """
    if "user" not in run_as:
        return
    # Tried rather than read off the modes, which are not all that decides.
    tried = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1"', "sh", folder],
        cwd="/",
        stderr=subprocess.DEVNULL,
        check=False,
        start_new_session=True,
        **run_as,
    )
    if tried.returncode != 0:
        name = pwd.getpwuid(run_as["user"]).pw_name
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root and runs as user {name!r} instead, who cannot "
            f"enter {folder.parent}: set TMPDIR to a folder that every user may enter "
            "(TMPDIR=/tmp)"
        )


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
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        # The whole session: a server's workers would outlive a killed leader.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until a child of ours that was sent SIGSTOP has stopped, or ended."""
    if hasattr(os, "waitid"):  # not on macOS before Python 3.13
        # Whatever became of it is left for `Popen` to find.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class Guard:
    """Ends a server and removes its folder if this process dies without a chance to.

    Ctrl-C and a normal exit are the owner's business; this is for SIGTERM, SIGKILL and crashes.
    A shell waits on a pipe that only this process holds open, and acts when it breaks.

    Args:
        process: the server, leader of its own session.
        folder: what to remove.
    """

    _SCRIPT = 'read -r dismissed && exit 0; kill -INT "$1"; sleep 2; kill -KILL "-$1"; rm -rf "$2"'

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "guard", str(process.pid), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Say that the owner has done, or will do, all that is needed."""
        self._shell.communicate(b"dismissed\n")
