"""The watch when notifications fail: it polls, and tries them again."""

from __future__ import annotations

import errno
import logging
import os
import sys
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import watchdog.observers
from watched_file import POLL, Counter, Watched, rename_over, text

from ephemeral_creds.providers.file.watch import notify as notify_module
from ephemeral_creds.providers.file.watch import poll as watch
from ephemeral_creds.providers.file.watch.notify import Notifications
from ephemeral_creds.providers.file.watch.poll import FileWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watchdog.observers.api import BaseObserver

    MakeWatched = Callable[..., Watched]


class Broken:
    """An observer that cannot be had: the system's limits are reached."""

    started = 0

    def __init__(self, error: OSError) -> None:
        self._error = error

    def __call__(self) -> NoReturn:
        type(self).started += 1
        raise self._error


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC])
def test_limits_of_the_system(
    code: int,
    make_watched: MakeWatched,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watchdog.observers, "Observer", Broken(OSError(code, os.strerror(code))))
    monkeypatch.setattr(notify_module, "_REARM_AFTER", 2)
    watched = make_watched(notify=True)
    with caplog.at_level(logging.INFO, logger="ephemeral_creds"):
        watched.begin()
        rename_over(watched.path, text("two"))
        watched.changes.wait_for(1)
        watched.settle()
    told = [record for record in caplog.records if "no file notifications" in record.message]
    assert len(told) == 1
    assert os.strerror(code) in told[0].message
    assert Broken.started > 1


def test_each_time_it_waits_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Counter()

    def observer() -> NoReturn:
        attempts()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(watchdog.observers, "Observer", observer)
    notifications = Notifications(tmp_path / "creds", Counter())
    seen = []
    for _ in range(31 + 61 + 121):
        notifications.supervise()
        seen.append(attempts.value)
    assert [seen.index(count) for count in (1, 2, 3)] == [0, 31, 31 + 61]
    assert seen[-1] == 3


def test_without_watchdog(make_watched: MakeWatched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchdog.observers", None)
    watched = make_watched(notify=True)
    watched.begin()
    rename_over(watched.path, text("two"))
    watched.changes.wait_for(1)


def test_schedule_that_fails_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BaseObserver] = []

    def observer() -> BaseObserver:
        made.append(real())
        monkeypatch.setattr(made[-1], "schedule", Broken(OSError(errno.ENOSPC, "full")))
        return made[-1]

    real = watchdog.observers.Observer
    monkeypatch.setattr(watchdog.observers, "Observer", observer)
    notifications = Notifications(tmp_path / "creds", Counter())
    notifications.supervise()
    assert [thread.is_alive() for thread in made] == [False]


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[tuple[Notifications, Counter]]:
    wakes = Counter()
    made = Notifications(tmp_path / "volume" / "creds", wakes)
    yield made, wakes
    made.stop()


def test_rearms_when_the_directory_comes_back(
    tmp_path: Path, notifications: tuple[Notifications, Counter]
) -> None:
    supervised, wakes = notifications
    folder = tmp_path / "volume"
    supervised.supervise()  # there is no directory yet
    for _ in range(3):
        folder.mkdir()
        supervised.supervise()
        before = wakes.value
        (folder / "creds").write_text("x")
        wakes.wait_for(before + 1)
        (folder / "creds").unlink()
        folder.rmdir()
        supervised.supervise()


def test_rearms_after_the_emitter_died(
    tmp_path: Path, notifications: tuple[Notifications, Counter]
) -> None:
    supervised, wakes = notifications
    (tmp_path / "volume").mkdir()
    supervised.supervise()
    supervised.supervise()
    assert supervised._observer is not None
    for emitter in supervised._observer.emitters:
        emitter.stop()
        emitter.join()
    supervised.supervise()
    before = wakes.value
    (tmp_path / "volume" / "creds").write_text("x")
    wakes.wait_for(before + 1)


def test_a_watch_that_dies_at_once_is_not_set_up_at_each_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter()

    base: Any = watchdog.observers.Observer

    class ShortLived(base):  # type: ignore[misc]
        def schedule(self, *args: object, **kwargs: object) -> None:
            made()
            self.stop()
            self.join()

    monkeypatch.setattr(watchdog.observers, "Observer", ShortLived)
    notifications = Notifications(tmp_path / "creds", Counter())
    seen = []
    for _ in range(2 + 30 + 2 + 60):
        notifications.supervise()
        seen.append(made.value)
    assert [seen.index(count) for count in (1, 2)] == [0, 2 + 30]
    assert seen[-1] == 2


def test_reading_does_not_wake(
    tmp_path: Path, notifications: tuple[Notifications, Counter]
) -> None:
    supervised, wakes = notifications
    path = tmp_path / "volume" / "creds"
    path.parent.mkdir()
    path.write_text("x")
    supervised.supervise()
    for _ in range(100):
        path.read_text()
    path.with_name("mark").mkdir()  # events come in order
    wakes.wait_for(1)
    assert wakes.value < 10


def test_a_loop_of_symlinks_does_not_end_the_watch(
    tmp_path: Path, make_watched: MakeWatched
) -> None:
    path = tmp_path / "creds"
    path.symlink_to("creds")
    watched = make_watched(path, None, notify=True)
    watched.begin()
    path.unlink()
    path.write_text(text("one"))
    watched.changes.wait_for(1)


def test_looks_again_when_the_look_could_not_tell(tmp_path: Path) -> None:
    looks = Counter()

    def look() -> bool:
        looks()
        return looks.value >= 10

    watcher = FileWatcher(tmp_path / "creds", look, poll_interval=POLL, notify=False)
    watcher.start()
    looks.wait_for(10)
    watcher.close()
    assert not watcher.alive


def test_watchdogs_messages_about_being_stopped_are_not_logged(
    notifications: tuple[Notifications, Counter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "volume").mkdir()
    for _ in range(2):
        notifications[0].supervise()
        notifications[0].stop()
    logger = logging.getLogger("watchdog.observers.inotify")
    logger.error("InotifyEmitter.queue_events() called when the thread is inactive")
    logger.error("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    assert len(logger.filters) == 1


def test_a_missing_directory_is_polled_more_often(tmp_path: Path) -> None:
    path = tmp_path / "volume" / "creds"
    watched = Watched(path, notify=True, poll_interval=3600.0)
    with watched:
        watched.begin()
        watched.looks.wait_for(2)
        path.unlink()
        path.parent.rmdir()
        Event().wait(0.02)  # so that the watch goes with it
        path.parent.mkdir()
        path.write_text(text("two"))
        watched.changes.wait_for(1)


def test_close_does_not_wait_for_the_poll(tmp_path: Path) -> None:
    looks = Counter()

    def look() -> bool:
        looks()
        return True

    watcher = FileWatcher(tmp_path / "creds", look, poll_interval=3600.0, notify=True)
    watcher.start()
    looks.wait_for(1)
    watcher.close()
    assert not watcher.alive


def test_close_says_when_a_file_system_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "_JOIN", 0.01)
    begun, end = Event(), Event()

    def look() -> bool:
        begun.set()
        return end.wait(20)

    watcher = FileWatcher(tmp_path / "creds", look, poll_interval=POLL, notify=False)
    watcher.start()
    begun.wait(20)
    watcher.close()
    assert "ephemeral-creds-file-creds still runs" in caplog.text
    end.set()
    watcher.close()
    monkeypatch.undo()
    watcher.close()
    assert not watcher.alive
