"""Reading a directory with one file per key: a Kubernetes volume, CSI driver, systemd."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.file.read.file import (
    EMPTY_DIRECTORY,
    FileText,
    read_text,
    translate,
)
from ephemeral_creds.providers.formats.ends import END_KEYS
from ephemeral_creds.providers.formats.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

__all__ = ["MAX_FILES", "SWAPPED", "entries_of_files", "read_directory"]

SWAPPED = "..data"
"""The symlink that kubelet and CSI drivers swap: it leads to a consistent set of files."""

MAX_FILES = 256
"""A volume has a handful of keys; a home folder given by mistake has thousands."""

# Suffixes of files that directories hardly ever have.
_FILES = (".cfg", ".conf", ".env", ".ini", ".json", ".properties", ".txt", ".yaml", ".yml")

# A swap takes microseconds, and a volume is not swapped twice in that time.
_ATTEMPTS = 5


def read_directory(path: Path, keys: Collection[str], *, max_size: int) -> dict[str, FileText]:
    """Read the files of `path` whose names are among `keys`, as one consistent set.

    If there is a ``..data``, its target is opened once and everything is read from there, so that
    a swap in between cannot mix old and new
    (https://kubernetes.io/docs/concepts/storage/projected-volumes/). Elsewhere two files cannot
    be replaced in one step, and a mix cannot be detected.

    The case of names does not matter. A file of more than `max_size` bytes is refused.

    Raises:
        ProviderUnavailable: the directory does not exist, or is empty (yet).
        MalformedResponse: it was replaced at the same moment.
        ConfigurationError: a file may not be read, or is not a regular file; or the directory is
            empty and has the name of a file.
    """
    wanted = {key.upper() for key in keys} | END_KEYS
    error: EphemeralCredsError = MalformedResponse(f"{path} is being written to")
    for _ in range(_ATTEMPTS):
        folder = _open(path)
        if isinstance(folder, ProviderUnavailable):
            error = folder
            continue
        if isinstance(folder, EphemeralCredsError):
            raise folder
        try:
            files = _read_all(path, folder, wanted, max_size)
            current = _is_current(path, folder)
        finally:
            os.close(folder)
        if files is None or not current:
            error = MalformedResponse(f"{path} is being written to")
        elif isinstance(files, EphemeralCredsError):
            error = files
        else:
            return files
    raise error


def entries_of_files(files: Mapping[str, FileText]) -> Iterator[Entry]:
    """Yield each file's content under its name, without a line end at its end."""
    for name, file in files.items():
        yield Entry(name, file.text.removesuffix("\n").removesuffix("\r"), f"file {name}")


def _folder_of_files(path: Path) -> Path:
    swapped = path / SWAPPED
    return swapped if swapped.is_symlink() else path


def _open(path: Path) -> int | EphemeralCredsError:
    folder = _folder_of_files(path)
    try:
        return os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except NotADirectoryError:
        return ConfigurationError(f"{path} is not a directory with one file per key")
    except OSError as error:
        return translate(error, folder)


def _read_all(
    path: Path, folder: int, wanted: set[str], max_size: int
) -> dict[str, FileText] | EphemeralCredsError | None:
    """Read the files of an open directory; ``None`` if they changed meanwhile."""
    files: dict[str, FileText] = {}
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAX_FILES)]
        if not names:
            return _empty(path)
        for name in sorted(names):
            if name.upper() in wanted:
                files[name] = read_text(path / name, max_size=max_size, folder=folder)
        same = all(
            _is_same_file(os.stat(name, dir_fd=folder), file.status) for name, file in files.items()
        )
    except FileNotFoundError:
        return None
    except ProviderUnavailable as error:
        return error
    return files if same else None


def _empty(path: Path) -> EphemeralCredsError:
    """Return the error for an empty directory, which may get files later or be a mistake."""
    if path.suffix in _FILES:
        return ConfigurationError(f"{path} is an empty directory, not a file: {EMPTY_DIRECTORY}")
    return ProviderUnavailable(
        f"{path} is an empty directory: if it should get one file per key, check that its writer "
        f"runs; if it should be a file, {EMPTY_DIRECTORY}"
    )


def _is_current(path: Path, folder: int) -> bool:
    """Whether `folder` has not been replaced: a replaced one is emptied before it is removed."""
    try:
        return os.path.samestat(os.fstat(folder), _folder_of_files(path).stat())
    except OSError:
        return False


def _is_same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_mtime_ns) == (other.st_ino, other.st_mtime_ns)
