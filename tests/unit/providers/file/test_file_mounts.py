"""Watching a file on real mounts, and at the system's limits.

Each setup is a process of its own (`mounts.py`), so that it leaves nothing behind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("mounts.py")
APART = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")
"""What a command is run by to have limits and mounts of its own; it needs no root."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces and inotify are Linux'"),
]


def require(*command: str) -> None:
    """Skip the test where a command is not there, or is not allowed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")


def run(setup: str, folder: Path, *within: str) -> dict[str, Any]:
    """Run a setup and return its results."""
    done = subprocess.run(
        [*within, sys.executable, PROGRAM, setup, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def test_a_file_that_is_mounted_by_itself(tmp_path: Path) -> None:
    require(*APART, "mount", "--bind", str(tmp_path), str(tmp_path))
    shown = run("single_file", tmp_path, *APART)
    assert shown["after_rename"] == [0, "one"], "the old inode stays, and no reader can see it"
    assert shown["in_place"] == "three"
    assert shown["refused"].endswith("refused by FilePolicy.mounted_alone")
    [ok, warn] = shown["check"]
    assert (ok[0], warn[0]) == ("ok", "warn")
    # By the provider that is checked, and by the one that watches.
    [warned, said] = shown["said"]
    assert warned == said == warn[1]
    assert f"{tmp_path}/container/creds is a mount of its own" in said
    assert "mount its directory (FilePolicy.mounted_alone)" in said


@pytest.mark.parametrize("setup", ["bound_directory", "tmpfs", "overlay"])
def test_notifications_come(setup: str, tmp_path: Path) -> None:
    probe = f"mount -t tmpfs tmpfs {tmp_path}"
    if setup == "overlay":
        probe += f" && cd {tmp_path} && mkdir l u w m && mount -t overlay overlay"
        probe += " -o lowerdir=l,upperdir=u,workdir=w,userxattr m"
    require(*APART, "sh", "-c", probe)
    assert run(setup, tmp_path, *APART) == {"password": "two", "said": []}


@pytest.mark.parametrize(
    ("setup", "reason"),
    [("instances", "inotify instance limit reached"), ("watches", "inotify watch limit reached")],
)
def test_inotifys_limits(setup: str, reason: str, tmp_path: Path) -> None:
    setting = f"/proc/sys/user/max_inotify_{setup}"
    require(*APART, "sh", "-c", f"echo 0 > {setting}")
    shown = run(setup, tmp_path, *APART)
    del shown["lost"]  # watchdog 6 does
    said = f"no file notifications for {tmp_path}/creds ({reason}): relying on polls"
    assert shown == {"notified": False, "during": "two", "afterwards": "three", "said": [said]}


def test_too_few_descriptors_for_notifications(tmp_path: Path) -> None:
    shown = run("few_descriptors", tmp_path)
    said = f"no file notifications for {tmp_path}/creds (Too many open files): relying on polls"
    assert shown == {
        "notified": False, "lost": 0, "during": "two", "afterwards": "three", "said": [said],
    }  # fmt: skip


def test_no_descriptor_to_read_with(tmp_path: Path) -> None:
    shown = run("no_descriptors", tmp_path)
    assert shown["refused"] == f"cannot read {tmp_path}/creds: Too many open files"
    assert (shown["changes"], shown["afterwards"]) == (0, "two")
