"""Reading the file: each way in which that fails says what to do about it."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from ephemeral_creds.exceptions import (
    ConfigurationError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.file.read.file import FileText
from ephemeral_creds.providers.file.read.file import read_text as read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from canary import Canary

NOBODY = 65534
MAX_SIZE = 64 * 1024
LATIN1 = b"DB_PASSWORD=A1a-canary-Pw9\xe9\n"


def read_text(path: Path) -> FileText:
    return read(path, max_size=MAX_SIZE)


@pytest.fixture
def open_to_nobody() -> Iterator[Path]:
    """A folder that an unprivileged user can get at, which pytest's are not."""
    # Not below TMPDIR, which may be closed to others, as one in a home folder is.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Give up root's right to read everything, where the tests run as root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(before)


def test_reads_the_whole_file_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_bytes(b"\xef\xbb\xbfKEY=\xc3\xa9\r\n")
    path.chmod(0o640)
    file = read_text(path)
    assert file.text == "KEY=é\r\n"
    assert stat.S_IMODE(file.status.st_mode) == 0o640
    assert "KEY" not in repr(file)


def test_follows_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert read_text(tmp_path / "link").text == "x"


def test_absent_may_come(tmp_path: Path) -> None:
    path = tmp_path / "later"
    with pytest.raises(ProviderUnavailable, match=re.escape(str(path))) as caught:
        read_text(path)
    assert "sidecar" in str(caught.value)
    assert caught.value.__context__ is None


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_text(tmp_path)


def test_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_text(tmp_path / "file" / "creds")


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_text(tmp_path / "fifo")


def test_symlink_loop(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ProviderUnavailable, match="cannot read"):
        read_text(tmp_path / "loop")


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(ConfigurationError, match=f"{MAX_SIZE + 1} bytes"):
        read_text(path)


def test_not_utf8_names_the_byte_and_keeps_the_content_to_itself(
    tmp_path: Path, canary: Canary
) -> None:
    path = tmp_path / "latin1"
    canary.allow_secret_file(path)
    path.write_bytes(LATIN1)
    with pytest.raises(ConfigurationError, match="not UTF-8: byte 26") as caught:
        read_text(path)
    assert "canary" not in str(caught.value)
    # UnicodeDecodeError.object is the content.
    assert caught.value.__context__ is None


@pytest.mark.usefixtures("unprivileged")
def test_unreadable_names_mode_and_owner(open_to_nobody: Path) -> None:
    path = open_to_nobody / "creds"
    uid = os.geteuid()
    os.seteuid(os.getuid())
    path.write_text("x")
    path.chmod(0o000)
    os.seteuid(uid)
    with pytest.raises(ConfigurationError) as caught:
        read_text(path)
    owner = f"owner uid {os.getuid()} gid {path.stat().st_gid}"
    assert f"mode 0000, {owner}; this process runs as uid {uid}" in str(caught.value)


@pytest.mark.usefixtures("unprivileged")
def test_unsearchable_directory(open_to_nobody: Path) -> None:
    uid = os.geteuid()
    os.seteuid(os.getuid())
    open_to_nobody.chmod(0o000)
    os.seteuid(uid)
    with pytest.raises(ConfigurationError, match="directory may not be searched"):
        read_text(open_to_nobody / "creds")
    os.seteuid(os.getuid())
    open_to_nobody.chmod(0o755)


def test_device_trouble_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "creds").touch()

    def stale(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(ProviderUnavailable, match="Stale file handle"):
        read_text(tmp_path / "creds")


def test_a_writer_at_the_same_moment_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "creds"
    path.write_text("half")
    real = os.fstat

    def fstat_then_append(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with path.open("a") as file:
            file.write(" and the rest")
        return status

    monkeypatch.setattr(os, "fstat", fstat_then_append)
    with pytest.raises(MalformedResponse, match="being written"):
        read_text(path)
