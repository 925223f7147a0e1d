"""Files with a secret in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds._secret_file import SecretFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> SecretFile:
    return SecretFile(tmp_path / "file")


def names(file: SecretFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir())


def test_content_is_replaced_as_a_whole(file: SecretFile) -> None:
    file.write("one\n")
    with file.path.open() as reader:
        file.write("two\n")
        assert reader.read() == "one\n"
    assert file.path.read_text() == "two\n"
    assert names(file) == ["file"]
    file.remove()
    file.remove()
    assert names(file) == []


@pytest.mark.parametrize("umask", [0, 0o777])
def test_its_mode_is_what_was_asked_for(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for mode in (0o600, 0o640, 0o400):
            file = SecretFile(tmp_path / "file", mode=mode, group=os.getegid())
            file.write("text")
            status = file.path.stat()
            assert (status.st_mode & 0o7777, status.st_gid) == (mode, os.getegid())
    finally:
        os.umask(before)


def test_the_rest_of_a_killed_writer_is_replaced(file: SecretFile, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / ".file.new").symlink_to(tmp_path / "elsewhere")
    file.write("ours")
    assert names(file) == ["elsewhere", "file"]
    assert (tmp_path / "elsewhere").read_text() == "theirs"


def test_a_failed_write_leaves_the_old_content(file: SecretFile) -> None:
    file.write("old")
    failing = SecretFile(file.path, group=-2)
    with pytest.raises((OSError, OverflowError)):
        failing.write("new")
    assert file.path.read_text() == "old"
    assert names(file) == ["file"]


def test_a_file_of_another_writer_is_left_alone(file: SecretFile) -> None:
    assert not file.is_replaced
    file.remove()
    file.write("ours")
    assert not file.is_replaced
    SecretFile(file.path).write("theirs")
    assert file.is_replaced
    file.remove()
    assert file.path.read_text() == "theirs"


def test_a_file_that_was_removed_is_written_again(file: SecretFile) -> None:
    file.write("ours")
    file.path.unlink()
    assert not file.is_replaced
    file.write("ours")
    assert repr(file) == f"SecretFile({str(file.path)!r})"
