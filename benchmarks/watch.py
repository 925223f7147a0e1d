"""How soon a changed credential file is noticed, and what looking at an unchanged one costs."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._measure import Figure, percentile
from ephemeral_creds import FilePolicy, FileProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks._measure import Effort

__all__ = ["measure"]

# What users get, and what a patient test can wait for: the poll's own latency scales with it.
_POLL = 1.0
_SHORT_POLL = 0.1
_PATIENCE = 30.0


def measure(effort: Effort) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return figures and details."""
    details: dict[str, Any] = {}
    for name, change in CHANGES.items():
        details[name] = {
            f"inotify, poll {_POLL:g} s": _latency(change, effort.changes, notify=True),
            f"poll {_SHORT_POLL:g} s alone": _latency(
                change, effort.changes, notify=False, poll=_SHORT_POLL
            ),
        }
    details["idle"] = {
        "poll alone": _idle(effort.idle, notify=False),
        "with inotify": _idle(effort.idle, notify=True),
    }
    renamed = details["rename"][f"inotify, poll {_POLL:g} s"]
    return {
        "watch_median_ms": Figure(renamed["median_ms"]),
        "poll_cpu_percent": Figure(details["idle"]["poll alone"]["cpu_percent"]),
    }, details


def _latency(
    change: Callable[[Path, str], Path], count: int, *, notify: bool, poll: float = _POLL
) -> dict[str, Any]:
    """Change a file `count` times and return the times until the call, in ms."""
    lots = random.Random(1)
    noticed = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "volume"
        folder.mkdir()
        path = change(folder, "0")
        provider = FileProvider(path, policy=_QUIET, poll_interval=poll, notify=notify)
        provider.watch(noticed.set)
        taken = []
        try:
            time.sleep(2 * _SHORT_POLL)  # until the watch has been armed
            for number in range(1, count + 1):
                # Not in step with the polls.
                time.sleep(lots.uniform(0.05, 0.05 + _SHORT_POLL))
                noticed.clear()
                change(folder, str(number))
                began = time.perf_counter()
                if not noticed.wait(_PATIENCE):
                    raise TimeoutError(f"not noticed in {_PATIENCE:g} s")
                taken.append((time.perf_counter() - began) * 1000)
                provider.fetch()
        finally:
            provider.close()
    taken.sort()
    return {
        "median_ms": round(statistics.median(taken), 2),
        "p95_ms": round(percentile(taken, 0.95), 2),
        "max_ms": round(taken[-1], 2),
    }


def _idle(seconds: float, *, notify: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        path = _rename(Path(name), "0")
        provider = FileProvider(path, policy=_QUIET, poll_interval=_POLL, notify=notify)
        provider.watch(lambda: None)
        try:
            time.sleep(2 * _SHORT_POLL)
            threads = threading.active_count() - 1
            began = time.process_time()
            time.sleep(seconds)
            used = time.process_time() - began
        finally:
            provider.close()
    return {
        "cpu_percent": round(100 * used / seconds, 4),
        "us_per_second": round(1e6 * used / seconds, 1),
        "threads": threads,
    }


_QUIET = FilePolicy(world_readable="allow")


def _text(password: str) -> str:
    return f"DB_USERNAME=bench\nDB_PASSWORD={password}\n"


def _rename(folder: Path, password: str) -> Path:
    """Do as Vault Agent does."""
    path = folder / "creds"
    temporary = folder / "31415926"
    temporary.write_text(_text(password))
    return temporary.rename(path)


def _in_place(folder: Path, password: str) -> Path:
    path = folder / "creds"
    path.write_text(_text(password))
    return path


def _swap(folder: Path, password: str) -> Path:
    """Do as kubelet does with the files of a Secret."""
    data, temporary = folder / "..data", folder / "..data_tmp"
    old = data.resolve() if data.exists() else None
    new = folder / f"..{password}"
    new.mkdir()
    (new / "username").write_text("bench")
    (new / "password").write_text(password)
    temporary.symlink_to(new.name)
    temporary.rename(data)
    for name in ("username", "password"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    if old is not None:
        shutil.rmtree(old)
    return folder


def _remount(folder: Path, password: str) -> Path:
    """Remove the directory and make it again, with other content."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return _in_place(folder, password)


CHANGES: dict[str, Callable[[Path, str], Path]] = {
    "rename": _rename,
    "in place": _in_place,
    "..data swap": _swap,
    "directory made again": _remount,
}
