"""Run a command in Linux namespaces of its own: nothing of it is left afterwards.

    python examples/kubernetes/tests/isolated.py COMMAND...

Whatever the command starts, mounts or does to the network is gone when it ends, however it ends.
The network has a loopback interface and nothing else, so nothing can be fetched either. The
variable ``ISOLATED_CGROUP`` names a cgroup, which is there, and empty, in each hierarchy; it is
removed afterwards, and so is the folder for temporary files. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main"]

_NAMESPACES = ("--fork", "--pid", "--mount-proc", "--mount", "--net", "--ipc", "--uts")
# Not exec: the shell is the namespace's first process, which has to reap orphans.
_FIRST_PROCESS = ("sh", "-c", '"$@"; exit $?', "sh")
_LAST_EXITS = 30.0


def main(command: list[str]) -> int:
    """Run the command, and return how it ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    name = f"ephemeral-creds-{os.getpid()}"
    cgroups = [mount / name for mount in _cgroup_mounts()]
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)  # for servers that run as other users
    try:
        for cgroup in cgroups:
            cgroup.mkdir()
        return subprocess.run(
            ["unshare", "--kill-child", *_NAMESPACES, *_FIRST_PROCESS, *command],
            env=os.environ | {"ISOLATED_CGROUP": name, "TMPDIR": str(folder)},
            check=False,
        ).returncode
    finally:
        for cgroup in cgroups:
            _remove(cgroup)
        shutil.rmtree(folder)


def _cgroup_mounts() -> list[Path]:
    """Return where the hierarchies are: one with version 2, one for each controller before."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [Path(line.split()[1]) for line in lines if line.split()[2] in ("cgroup", "cgroup2")]


def _remove(cgroup: Path) -> None:
    """Remove it with what is below, as soon as its last process is gone."""
    give_up_at = time.monotonic() + _LAST_EXITS
    while cgroup.exists():
        try:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                Path(folder).rmdir()
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
