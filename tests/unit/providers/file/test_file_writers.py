"""`FileProvider` works with every writer, by polls alone and with notifications."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from watched_file import POLL, Counter
from writers import WRITERS, BindMountedFile, CsiDriver, SecretVolume, Systemd, Writer

from ephemeral_creds.exceptions import EphemeralCredsError, MalformedResponse, ProviderUnavailable
from ephemeral_creds.providers.file import FilePolicy, FileProvider
from ephemeral_creds.providers.file.read import directory
from ephemeral_creds.providers.file.read import file as read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ephemeral_creds.providers.file.read.file import FileText

pytestmark = pytest.mark.slow  # each takes many steps, with threads

QUIET = FilePolicy(world_readable="allow")


class Followed:
    """A writer, the provider that watches its file, and the number of its calls."""

    def __init__(self, writer: Writer, **options: Any) -> None:
        self.writer = writer
        self.changes = Counter()
        options = {"policy": QUIET, "poll_interval": POLL, **writer.options, **options}
        self.provider = FileProvider(writer.path, **options)

    def read(self) -> tuple[str, str]:
        credentials = self.provider.fetch().credentials
        return credentials.username, credentials.password.reveal()

    def wait_for(self, username: str, password: str) -> None:
        """Wait until a `fetch` after a call brings these; it may take more than one call."""
        calls = 0
        while True:
            calls = self.changes.wait_for(calls + 1)
            if self.read() == (username, password):
                return


@pytest.fixture(params=[False, True], ids=["poll", "notify"])
def notify(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=WRITERS, ids=[writer.__name__ for writer in WRITERS])
def followed(request: pytest.FixtureRequest, tmp_path: Path, notify: bool) -> Iterator[Followed]:
    folder = tmp_path / "own"
    folder.mkdir()
    followed = Followed(request.param(folder), notify=notify)
    yield followed
    followed.provider.close()


def test_each_change_is_noticed_and_read_whole(followed: Followed) -> None:
    followed.writer.write("user-0", "pw-0")
    followed.provider.watch(followed.changes)
    assert followed.read() == ("user-0", "pw-0")
    for number in range(1, 4):
        followed.writer.write(f"user-{number}", f"pw-{number}")
        followed.wait_for(f"user-{number}", f"pw-{number}")


def test_it_may_come_late(followed: Followed) -> None:
    followed.provider.watch(followed.changes)
    with pytest.raises(EphemeralCredsError):
        followed.provider.fetch()
    followed.writer.write("user-1", "pw-1")
    followed.wait_for("user-1", "pw-1")


def test_the_same_again_is_no_change(followed: Followed) -> None:
    followed.writer.write("user-0", "pw-0")
    followed.provider.watch(followed.changes)
    followed.provider.fetch()
    followed.writer.write("user-0", "pw-0")
    assert followed.read() == ("user-0", "pw-0")
    # What comes afterwards is noticed, and was the first to be.
    before = followed.changes.value
    followed.writer.write("user-1", "pw-1")
    followed.wait_for("user-1", "pw-1")
    if followed.writer.in_one_step:
        assert before == 0


@pytest.fixture(params=[SecretVolume, CsiDriver])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Followed:
    """A volume whose files are replaced together, with user-0 in it."""
    volume = Followed(request.param(tmp_path), notify=False)
    volume.writer.write("user-0", "pw-0")
    return volume


@pytest.mark.parametrize("files_before", [0, 1])
def test_a_pair_is_never_torn_by_a_swap(
    volume: Followed, monkeypatch: pytest.MonkeyPatch, files_before: int
) -> None:
    reads = itertools.count()

    def read_text(*args: Any, **kwargs: Any) -> FileText:
        if next(reads) == files_before:
            volume.writer.write("user-1", "pw-1")
        return read.read_text(*args, **kwargs)

    monkeypatch.setattr(directory, "read_text", read_text)
    assert volume.read() == ("user-1", "pw-1")


def test_a_volume_that_is_swapped_at_each_attempt(
    volume: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)

    def read_text(*args: Any, **kwargs: Any) -> FileText:
        number = next(numbers)
        volume.writer.write(f"user-{number}", f"pw-{number}")
        return read.read_text(*args, **kwargs)

    monkeypatch.setattr(directory, "read_text", read_text)
    with pytest.raises(MalformedResponse, match="is being written to"):
        volume.read()
    monkeypatch.undo()
    last = next(numbers) - 1
    assert volume.read() == (f"user-{last}", f"pw-{last}")


def test_a_volume_whose_link_leads_nowhere(volume: Followed) -> None:
    (volume.writer.folder / "..data").unlink()
    (volume.writer.folder / "..data").symlink_to("gone")
    with pytest.raises(ProviderUnavailable, match=r"/\.\.data does not exist"):
        volume.read()


def test_a_file_that_is_replaced_behind_a_bind_mount_stays_old(tmp_path: Path) -> None:
    writer = BindMountedFile(tmp_path)
    writer.write("user-0", "pw-0")
    followed = Followed(writer)
    new = tmp_path / "host" / "new"
    new.write_text('{"username": "user-1", "password": "pw-1"}')
    new.rename(tmp_path / "host" / "creds.json")
    assert followed.read() == ("user-0", "pw-0"), "which is why a directory has to be mounted"


def test_systemds_directory_is_private_and_read_only(tmp_path: Path) -> None:
    writer = Systemd(tmp_path)
    writer.write("user-0", "pw-0")
    strict = FilePolicy(world_readable="refuse", foreign_owner="refuse", outside_link="refuse")
    assert Followed(writer, policy=strict).read() == ("user-0", "pw-0")


def test_a_key_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "username").write_text("app")
    (tmp_path / "password").symlink_to("gone")
    with pytest.raises(ProviderUnavailable, match=f"{tmp_path}/password does not exist"):
        FileProvider(tmp_path, policy=QUIET).fetch()


def test_a_directory_without_the_needed_keys(tmp_path: Path) -> None:
    (tmp_path / "username").write_text("app")
    provider = FileProvider(tmp_path, policy=QUIET)
    with pytest.raises(EphemeralCredsError, match=f"{tmp_path}: PASSWORD is missing"):
        provider.fetch()
    with pytest.raises(EphemeralCredsError, match="is not a directory with one file per key"):
        FileProvider(tmp_path / "username", format="directory").fetch()
    with pytest.raises(ProviderUnavailable, match="does not exist"):
        FileProvider(tmp_path / "absent", format="directory").fetch()
