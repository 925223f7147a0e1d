"""Mounts and system limits that need a process of their own.

`test_file_mounts.py` starts this once for each setup, with a folder of its own, in namespaces for
users and mounts that end with the process. The output is one line of JSON: the log, and the results
of the setup.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from watched_file import GENEROUS, Watched, rename_over, text

from ephemeral_creds.check.findings import Findings
from ephemeral_creds.check.run import check_file
from ephemeral_creds.exceptions import ConfigurationError, ProviderUnavailable
from ephemeral_creds.providers.file import FilePolicy, FileProvider
from ephemeral_creds.providers.file.watch import notify as notifications
from ephemeral_creds.providers.file.watch.poll import _identity

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET = FilePolicy(world_readable="allow", mounted_alone="allow")
WITHOUT_POLLS = 3600.0
"""Seconds between two polls where a notification has to do it."""


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def wait_until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(GENEROUS / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("in vain")


def notified(watched: Watched) -> bool:
    """Say whether notifications are available now."""
    watcher = watched.provider._watcher
    assert watcher is not None
    assert watcher._notifications is not None
    return watcher._notifications._healthy()


# --- Mounts -------------------------------------------------------------------------------------


def single_file(folder: Path) -> dict[str, object]:
    """A file that is mounted by itself, replaced where it comes from."""
    host, container = folder / "host" / "creds", folder / "container" / "creds"
    for path in (host, container):
        path.parent.mkdir()
        path.touch()
    host.write_text(text("one"))
    host.chmod(0o600)
    mount("--bind", host, container)
    strict = FilePolicy(world_readable="allow", mounted_alone="refuse")
    try:
        FileProvider(container, policy=strict).fetch()
    except ConfigurationError as error:
        refused = str(error)
    findings = Findings("file")
    check_file(FileProvider(container), findings)
    with Watched(container, None, notify=True) as watched:
        watched.begin()
        rename_over(host, text("two"))
        watched.settle()
        after_rename = (watched.changes.value, watched.password())
        container.write_text(text("three"))  # the inode that is mounted
        watched.changes.wait_for(1)
        return {
            "refused": refused,
            "check": [(found.level, found.text) for found in findings.found],
            "after_rename": after_rename,
            "in_place": watched.password(),
        }


def _replaced(path: Path, *, by: Path | None = None) -> dict[str, object]:
    """Replace a file by a rename, perhaps under another name; only a notification reports it."""
    with Watched(path, None, notify=True, poll_interval=WITHOUT_POLLS) as watched:
        watched.begin()
        watched.looks.wait_for(2)  # at the call, and when the watch has been set up
        rename_over(by or path, text("two"))
        watched.changes.wait_for(1)
        return {"password": watched.password()}


def bound_directory(folder: Path) -> dict[str, object]:
    """A directory that is mounted, with its file replaced where it comes from."""
    host, container = folder / "host", folder / "container"
    for path in (host, container):
        path.mkdir()
    (host / "creds").write_text(text("one"))
    mount("--bind", host, container)
    return _replaced(container / "creds", by=host / "creds")


def tmpfs(folder: Path) -> dict[str, object]:
    mount("-t", "tmpfs", "tmpfs", folder)
    (folder / "creds").write_text(text("one"))
    return _replaced(folder / "creds")


def overlay(folder: Path) -> dict[str, object]:
    """A container's own file system, with the file in a layer of its image at first."""
    mount("-t", "tmpfs", "tmpfs", folder)  # the upper layer cannot be in another overlay
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir()
    (folder / "lower" / "creds").write_text(text("one"))
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    mount("-t", "overlay", "overlay", "-o", f"{layers},userxattr", folder / "merged")
    return _replaced(folder / "merged" / "creds")


# --- Limits -------------------------------------------------------------------------------------


def _limited(folder: Path, limit: Callable[[], Callable[[], object]]) -> dict[str, object]:
    """Have a file replaced while there can be no notifications, and again when there can."""
    notifications._REARM_AFTER = 3
    with Watched(folder / "creds", text("one"), notify=True) as watched:
        (folder / "new").write_text(text("two"))
        lift = limit()
        before = len([*Path("/proc/self/fd").iterdir()])
        watched.begin()
        (folder / "new").rename(watched.path)
        watched.changes.wait_for(1)
        during = notified(watched)
        lift()
        lost = len([*Path("/proc/self/fd").iterdir()]) - before
        replaced = watched.password()
        wait_until(lambda: notified(watched))
        changes = watched.changes.value
        rename_over(watched.path, text("three"))
        watched.changes.wait_for(changes + 1)
        return {
            "notified": during,
            "lost": lost,
            "during": replaced,
            "afterwards": watched.password(),
        }


def _inotify(folder: Path, name: str) -> dict[str, object]:
    """Allow none of them in this user namespace."""
    setting = Path("/proc/sys/user", name)

    def limit() -> Callable[[], object]:
        setting.write_text("0")
        return lambda: setting.write_text("100")

    return _limited(folder, limit)


def instances(folder: Path) -> dict[str, object]:
    return _inotify(folder, "max_inotify_instances")


def watches(folder: Path) -> dict[str, object]:
    return _inotify(folder, "max_inotify_watches")


def _allow_descriptors(new: int) -> Callable[[], None]:
    """Let this process open so many, and return what lifts that."""
    import watchdog.observers  # noqa: F401  what loading it takes is not there later

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + new, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def few_descriptors(folder: Path) -> dict[str, object]:
    """Enough to read a file, and too few for inotify."""
    return _limited(folder, lambda: _allow_descriptors(2))


def no_descriptors(folder: Path) -> dict[str, object]:
    """Too few to read a file; what comes is read as soon as there are some again."""
    with Watched(folder / "creds", text("one"), notify=True) as watched:
        watched.begin()
        watched.looks.wait_for(2)
        (folder / "new").write_text(text("two"))
        lift = _allow_descriptors(0)
        (folder / "new").rename(watched.path)
        watcher = watched.provider._watcher
        assert watcher is not None
        wait_until(lambda: watcher._seen == _identity(watched.path))
        try:
            watched.provider.fetch()
        except ProviderUnavailable as error:
            refused = str(error)
        during = watched.changes.value
        lift()
        watched.changes.wait_for(1)
        return {"refused": refused, "changes": during, "afterwards": watched.password()}


SETUPS = {
    setup.__name__: setup
    for setup in (
        single_file, bound_directory, tmpfs, overlay,
        instances, watches, few_descriptors, no_descriptors,
    )
}  # fmt: skip


def main() -> None:
    name, folder = sys.argv[1:]
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ephemeral_creds")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    shown = SETUPS[name](Path(folder))
    print(json.dumps({**shown, "said": said}))


if __name__ == "__main__":
    main()
