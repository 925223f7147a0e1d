"""`FileProvider` on real files: what it reads, and which changes it calls about."""

from __future__ import annotations

import logging
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import pytest
from watched_file import GENEROUS, POLL, Counter, Watched, rename_over, text

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials, Lease, Secret
from ephemeral_creds.events import CredentialsPublished
from ephemeral_creds.exceptions import (
    ConfigurationError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.lifecycle.wishes import CHANGE_BURST, CHANGE_INTERVAL
from ephemeral_creds.providers.file import FileProvider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ephemeral_creds.events import Event

    MakeWatched = Callable[..., Watched]


@pytest.fixture(params=[False, True], ids=["poll", "notify"])
def watched(request: pytest.FixtureRequest, make_watched: MakeWatched) -> Watched:
    """Watched by polling alone, and by polling with notifications."""
    watched = make_watched(notify=request.param)
    watched.begin()
    watched.provider.fetch()
    return watched


class Clock(SystemClock):
    def now(self) -> float:
        return 42.0


# --- fetch ----------------------------------------------------------------------------------


def test_fetch_returns_credentials_without_a_deadline(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_text(text("one"))
    grant = FileProvider(path, clock=Clock()).fetch()
    assert grant.credentials == Credentials("app", Secret("one"))
    assert grant.lease == Lease(requested_at=42.0, duration=math.inf)
    assert not FileProvider.mints


def test_pickling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="send its settings to the other process"):
        pickle.dumps(FileProvider(tmp_path / "creds"))


def test_fetch_reads_anew(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    provider = FileProvider(str(path))
    with pytest.raises(ProviderUnavailable):
        provider.fetch()
    path.write_text(text("one"))
    assert provider.fetch().credentials.password.reveal() == "one"
    path.write_text("")
    with pytest.raises(MalformedResponse, match=f"{path}: it is empty"):
        provider.fetch()
    path.write_text(text("<no value>"))
    with pytest.raises(ConfigurationError, match=f"{path}: DB_PASSWORD is '<no value>'"):
        provider.fetch()


def test_relative_paths_survive_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "creds").write_text(text("one"))
    monkeypatch.chdir(tmp_path)
    provider = FileProvider("creds")
    monkeypatch.chdir("/")
    assert provider.description == f"file {tmp_path / 'creds'}"
    assert provider.fetch().credentials.username == "app"


def test_own_parser(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_text("app one")

    def parse(content: str) -> Credentials:
        username, password = content.split()
        return Credentials(username, Secret(password))

    def pair(content: str) -> tuple[str, str]:
        username, password = content.split()
        return username, password

    def mapping(content: str) -> dict[str, str]:
        return {"user": content.split()[0], "password": content.split()[1], "host": "db"}

    for own in (parse, pair, mapping):
        provider = FileProvider(path, parse=own)
        assert provider.fetch().credentials == Credentials("app", Secret("one"))
    provider = FileProvider(path, parse=parse)
    path.write_text("canary-A1a-of-one-word")
    with pytest.raises(MalformedResponse, match="parse function failed with ValueError") as caught:
        provider.fetch()
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def _own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "ephemeral_creds"]


@pytest.mark.parametrize("interval", [0, -1, math.inf, math.nan])
def test_poll_interval_has_to_be_a_time(tmp_path: Path, interval: float) -> None:
    with pytest.raises(ConfigurationError, match="poll_interval"):
        FileProvider(tmp_path, poll_interval=interval)


# --- changes that count ---------------------------------------------------------------------


def test_rename_over(watched: Watched) -> None:
    for number in range(1, 4):
        rename_over(watched.path, text(f"pw-{number}"))
        watched.changes.wait_for(number)
        assert watched.password() == f"pw-{number}"
    watched.settle()
    assert watched.changes.value == 3


def test_user_name_alone(watched: Watched) -> None:
    rename_over(watched.path, text("one", username="other"))
    watched.changes.wait_for(1)


def test_written_in_place_with_a_pause(watched: Watched) -> None:
    with watched.path.open("w") as file:
        file.write("DB_USERNAME=app\nDB_PASS")
        file.flush()
        watched.looks.wait_for(watched.looks.value + 1)
        assert watched.changes.value == 0
        with pytest.raises(MalformedResponse):
            watched.provider.fetch()
        file.write("WORD=two")
    watched.changes.wait_for(1)
    assert watched.password() == "two"


def test_half_a_password_is_followed_by_the_whole_one(watched: Watched) -> None:
    with watched.path.open("w") as file:
        file.write(text("tw"))
        file.flush()
        watched.changes.wait_for(1)  # nothing tells it from a whole one
        file.write("o")
    watched.changes.wait_for(2)
    assert watched.password() == "two"


def test_deleted_and_created_again(watched: Watched) -> None:
    watched.path.unlink()
    with pytest.raises(ProviderUnavailable):
        watched.provider.fetch()
    watched.path.write_text(text("two"))
    watched.changes.wait_for(1)
    assert watched.password() == "two"


def test_the_same_again_after_an_error_that_was_seen(watched: Watched) -> None:
    watched.path.unlink()
    with pytest.raises(ProviderUnavailable):
        watched.provider.fetch()
    watched.path.write_text(text("one"))
    watched.changes.wait_for(1)


def test_directory_removed_and_created_again(watched: Watched) -> None:
    folder = watched.path.parent
    for number in range(1, 4):
        watched.path.unlink()
        folder.rmdir()
        folder.mkdir()
        watched.path.write_text(text(f"pw-{number}"))
        watched.changes.wait_for(number)


def test_absent_at_first(make_watched: MakeWatched) -> None:
    watched = make_watched(content=None, notify=True)
    watched.path.parent.mkdir()
    watched.begin()
    with pytest.raises(ProviderUnavailable):
        watched.provider.fetch()
    watched.path.write_text(text("one"))
    watched.changes.wait_for(1)
    assert watched.password() == "one"


def test_absent_with_its_directory_at_first(make_watched: MakeWatched) -> None:
    watched = make_watched(content=None, notify=True)
    watched.begin()
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            watched.provider.fetch()
        watched.path.parent.mkdir()
        watched.path.write_text(text("one"))
        watched.changes.wait_for(watched.changes.value + 1)
        assert watched.password() == "one"
        watched.path.unlink()
        watched.path.parent.rmdir()


@pytest.mark.slow
def test_two_changes_within_ten_milliseconds(watched: Watched) -> None:
    for number in range(1, 6):
        before = watched.changes.value
        rename_over(watched.path, text(f"a-{number}"))
        rename_over(watched.path, text(f"b-{number}"))
        watched.changes.wait_for(before + 1)
        assert watched.password() == f"b-{number}"
        watched.settle()
        assert watched.changes.value <= before + 2


@pytest.mark.slow
@pytest.mark.parametrize("notify", [False, True], ids=["poll", "notify"])
def test_a_thousand_changes_in_a_second_are_followed_at_a_walking_pace(
    tmp_path: Path, notify: bool
) -> None:
    path = tmp_path / "creds"
    path.write_text(text("pw-0"))
    provider = FileProvider(path, poll_interval=POLL, notify=notify)
    published = Counter()

    def observe(event: Event) -> None:
        if isinstance(event, CredentialsPublished):
            published()

    pause = threading.Event()
    with CredentialKeeper(provider, observers=[observe]) as keeper:
        keeper.wait(GENEROUS)
        began = time.monotonic()
        for number in range(1, 1001):
            rename_over(path, text(f"pw-{number}"))
            pause.wait(max(began + number / 1000 - time.monotonic(), 0.0))
        seen = published.value
        while keeper.current().credentials.password.reveal() != "pw-1000":
            seen = published.wait_for(seen + 1)
        took = time.monotonic() - began
        status = keeper.status()
    most = CHANGE_BURST + took / CHANGE_INTERVAL + 2
    assert 1 <= status.rotations < status.fetches <= most
    assert status.generation == status.grants <= most


def test_time_stamp_that_goes_back(watched: Watched) -> None:
    temporary = watched.path.with_name("new")
    temporary.write_text(text("two"))
    os.utime(temporary, (1, 1))
    temporary.rename(watched.path)
    watched.changes.wait_for(1)


def test_same_length_and_time_stamp(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    # The change time cannot be set, so the whole identity is made to stay the same.
    watched.settle()
    frozen = watched.path.stat()
    real = type(watched.path).stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == watched.path:
            return frozen
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(type(watched.path), "stat", stat)
    with watched.path.open("r+") as file:
        file.write(text("two"))
    watched.changes.wait_for(1)


@pytest.mark.parametrize("notify", [False, True])
def test_kubernetes_volume(tmp_path: Path, make_watched: MakeWatched, notify: bool) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()

    def publish(version: str, password: str) -> None:
        """What kubelet's AtomicWriter does."""
        data = volume / f"..{version}"
        data.mkdir()
        (data / "creds").write_text(text(password))
        (volume / "..data_tmp").symlink_to(data.name)
        before = (volume / "..data").resolve()
        (volume / "..data_tmp").rename(volume / "..data")
        if before.name != "..data":
            (before / "creds").unlink()
            before.rmdir()

    publish("0", "pw-0")
    (volume / "creds").symlink_to("..data/creds")
    watched = make_watched(volume / "creds", None, notify=notify)
    watched.begin()
    watched.provider.fetch()
    for number in range(1, 4):
        publish(str(number), f"pw-{number}")
        watched.changes.wait_for(number)
        assert watched.password() == f"pw-{number}"
    watched.settle()
    assert watched.changes.value == 3


def test_notifications_do_not_wait_for_the_poll(make_watched: MakeWatched) -> None:
    watched = make_watched(notify=True, poll_interval=3600.0)
    watched.begin()
    # Armed before its first look, which is the second one of all.
    watched.looks.wait_for(2)
    for number in range(1, 4):
        rename_over(watched.path, text(f"pw-{number}"))
        watched.changes.wait_for(number)


# --- changes that do not --------------------------------------------------------------------


@pytest.mark.slow
def test_same_content(watched: Watched) -> None:
    rename_over(watched.path, text("one"))
    watched.settle()
    watched.path.write_text(text("one"))
    watched.settle()
    os.utime(watched.path, (1, 1))
    watched.settle()
    assert watched.changes.value == 0


def test_same_credentials_in_other_words(watched: Watched) -> None:
    rename_over(watched.path, f"# ttl: 3599\n{text('one')}\nLEASE_DURATION=3599\n")
    watched.settle()
    assert watched.changes.value == 0


def test_other_files_in_the_directory(watched: Watched) -> None:
    for number in range(20):
        temporary = watched.path.with_name(str(number))
        temporary.write_text(text("two"))
        if number % 2:
            temporary.unlink()
    watched.settle()
    assert watched.changes.value == 0


def test_a_file_that_cannot_be_used(watched: Watched) -> None:
    for content in ("", "nonsense", text("<no value>"), "DB_USERNAME=app\n"):
        rename_over(watched.path, content)
        watched.looks.wait_for(watched.looks.value + 2)
    rename_over(watched.path, text("one"))
    watched.settle()
    assert watched.changes.value == 0


def test_a_change_that_a_fetch_has_read_is_not_reported_again(watched: Watched) -> None:
    # Written, noticed at most once, and not again after the fetch.
    rename_over(watched.path, text("two"))
    watched.provider.fetch()
    watched.settle()
    assert watched.changes.value <= 1


# --- life and death -------------------------------------------------------------------------


def test_close_twice_and_before_watching(watched: Watched) -> None:
    assert watched.provider.watching
    watched.provider.close()
    assert not watched.provider.watching
    watched.provider.close()
    assert watched.password() == "one"
    FileProvider(watched.path).close()


def own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("ephemeral-creds")}


@pytest.fixture
def of_others() -> set[threading.Thread]:
    """The threads that tests before have left to end by themselves."""
    return own_threads()


def test_no_calls_after_close(of_others: set[threading.Thread], watched: Watched) -> None:
    watched.provider.close()
    rename_over(watched.path, text("two"))
    assert watched.changes.value == 0
    assert own_threads() <= of_others


def test_one_keeper_only(watched: Watched) -> None:
    with pytest.raises(ConfigurationError, match="watched already"):
        watched.begin()


def test_watches_again_after_close(watched: Watched) -> None:
    watched.provider.close()
    watched.begin()
    rename_over(watched.path, text("two"))
    watched.changes.wait_for(1)


def test_close_from_the_callback(make_watched: MakeWatched) -> None:
    watched = make_watched()
    closed = threading.Event()

    def on_change() -> None:
        watched.provider.close()
        closed.set()

    watched.provider.watch(on_change)
    rename_over(watched.path, text("two"))
    assert closed.wait(GENEROUS)


def test_a_callback_that_fails_does_not_end_the_watch(
    make_watched: MakeWatched, caplog: pytest.LogCaptureFixture
) -> None:
    watched = make_watched()
    calls = Counter()

    def on_change() -> NoReturn:
        calls()
        raise RuntimeError("canary-A1a-in-a-message")

    watched.provider.watch(on_change)
    for number in range(1, 4):
        rename_over(watched.path, text(f"pw-{number}"))
        calls.wait_for(number)
    watched.settle()
    (record,) = [record for record in _own_records(caplog) if record.levelno > logging.INFO]
    assert "failed with RuntimeError" in record.getMessage()
    assert "canary" not in record.getMessage()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_pretend_to_watch(watched: Watched) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # no assertion may leave this branch
        os.write(writer, _in_the_child(watched).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "False one True two"
    os.waitpid(child, 0)
    assert watched.provider.watching  # the parent's still does
    watched.changes.wait_for(1)


@pytest.mark.slow
def test_no_thread_loads_watchdog_while_the_process_may_be_forked() -> None:
    code = """
import sys
from ephemeral_creds import FileProvider

FileProvider("/creds", notify=False)
assert "watchdog.observers" not in sys.modules
FileProvider("/creds")
assert "watchdog.observers" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _in_the_child(watched: Watched) -> str:
    try:
        # A thread of the parent, which is not here, may have held its lock.
        watched.looks = Counter()
        said = [str(watched.provider.watching), watched.password()]
        changes = Counter()
        watched.provider.watch(changes)
        said.append(str(watched.provider.watching))
        rename_over(watched.path, text("two"))
        changes.wait_for(1)
        said.append(watched.password())
        watched.provider.close()
        return " ".join(said)
    except BaseException as error:
        return repr(error)
