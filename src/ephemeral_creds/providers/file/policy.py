"""Which owners, modes, links, mounts and sizes of a credential file are accepted."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.file.read.file import mount_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ephemeral_creds.providers.file.read.file import FileText

__all__ = ["VERDICTS", "FilePolicy", "Inspection", "Verdict", "mounted_alone"]

_logger = logging.getLogger("ephemeral_creds")

_WORLD_READABLE = (
    'is readable by every user (mode {mode:04o}); set perms = "0400" in the agent\'s template, the '
    'annotation vault.hashicorp.com/agent-inject-perms-{name}: "0400" with the injector, or '
    "defaultMode: 0400 in a Secret volume; 0440 if the service has another user"
)
_FOREIGN_OWNER = "belongs to uid {owner}, which is neither this process's user ({user}) nor root"
_MOUNTED_ALONE = (
    "is a mount of its own (docker run -v FILE:FILE, a subPath): after a rename over it, as agents "
    "do, this process still reads the old one; mount its directory"
)

Verdict: TypeAlias = Literal["allow", "warn", "refuse"]
VERDICTS = ("foreign_owner", "mounted_alone", "outside_link", "world_readable")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePolicy:
    """What a `FileProvider` accepts. ``warn`` logs once; ``refuse`` is a `ConfigurationError`.

    Raises:
        ConfigurationError: a value is not ``allow``, ``warn`` or ``refuse``, or `max_size` is not
            positive.
    """

    # 0644 is the default of Vault Agent and of Secret volumes: refusing it would refuse most.
    world_readable: Verdict = "warn"
    """A file that every user may read, in a directory that every user may search."""

    # The agent's container has a user of its own, uid 100 with the injector.
    foreign_owner: Verdict = "allow"
    """A file that belongs neither to this process's user nor to root."""

    # Kubernetes' own symlinks stay in their volume.
    outside_link: Verdict = "warn"
    """A symlink that leads out of its mount: the file, or a directory of files."""

    # Right for a file that is written in place, or never.
    mounted_alone: Verdict = "warn"
    """A file that is mounted by itself, without its directory. Linux only."""

    # Credentials have a few hundred bytes; with certificates in the same file, a few thousand.
    max_size: int = 64 * 1024
    """Bytes above which a file is refused, in any case: it is a wrong path."""

    def __post_init__(self) -> None:
        for name in VERDICTS:
            value = getattr(self, name)
            if value not in ("allow", "warn", "refuse"):
                raise ConfigurationError(
                    f"FilePolicy({name}={value!r}): must be 'allow', 'warn' or 'refuse'"
                )
        if self.max_size < 1:
            raise ConfigurationError(f"FilePolicy(max_size={self.max_size!r}): must be 1 or more")


class Inspection:
    """Checks files against a policy, and logs each kind of warning once."""

    def __init__(self, policy: FilePolicy) -> None:
        self.policy = policy
        self._warned: dict[str, str] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, each once."""
        return tuple(self._warned.values())

    def inspect(self, path: Path, file: FileText, *, folders: Iterable[Path] = ()) -> None:
        """Check a file that has been read, or raise if the policy refuses it.

        `folders` are the directories on the way to it that may be symlinks themselves.
        """
        for name, finding in _findings(path, file, folders):
            verdict: Verdict = getattr(self.policy, name)
            if verdict == "refuse":
                raise ConfigurationError(f"{path} {finding}: refused by FilePolicy.{name}")
            if verdict == "warn" and name not in self._warned:
                self._warned[name] = f"{path} {finding} (FilePolicy.{name})"
                _logger.warning("%s", self._warned[name])


def mounted_alone(path: Path) -> bool:
    """Tell whether a file is known to be a mount of its own, without its directory."""
    real = Path(os.path.realpath(path))
    return real.is_file() and _elsewhere(real.parent, _mount_at(real))


def _findings(path: Path, file: FileText, folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    status = file.status
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IROTH and _searchable(path.parent):
        yield "world_readable", _WORLD_READABLE.format(mode=mode, name=path.name)
    if status.st_uid not in (os.geteuid(), 0):
        yield "foreign_owner", _FOREIGN_OWNER.format(owner=status.st_uid, user=os.geteuid())
    for link in (*folders, path):
        if link.is_symlink() and _elsewhere(link.parent, file.mount):
            what = "is" if link == path else f"is reached by {link},"
            yield "outside_link", f"{what} a symlink that leads out of its mount"
    real = Path(os.path.realpath(path))
    # A file that only ..data has does not exist at this path.
    if real.exists() and _elsewhere(real.parent, file.mount):
        yield "mounted_alone", _MOUNTED_ALONE


def _searchable(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return True


def _elsewhere(folder: Path, mount: object) -> bool:
    """Tell whether a folder is known to be in another mount."""
    found = _mount_at(folder)
    return None not in (found, mount) and found != mount


def _mount_at(path: Path) -> object:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return mount_of(descriptor)
    finally:
        os.close(descriptor)
