"""A file with a secret in it: replaced as a whole, and removed only while it is this process's."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SecretFile"]


class SecretFile:
    """A file that one process writes and others read.

    A reader sees the old content or the new one, never a part: the new one is written to a file
    beside it, which is then renamed. Until then only this user can read it.

    Args:
        path: the file. Its directory has to exist.
        mode: its permissions, whatever the umask is.
        group: the id of its group; ``None`` leaves what the directory and the process give it.
    """

    def __init__(self, path: Path, *, mode: int = 0o600, group: int | None = None) -> None:
        self.path = path
        self._mode = mode
        self._group = group
        self._written = b""

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r})"

    @property
    def is_replaced(self) -> bool:
        """Whether the file has another content than this object wrote last.

        False where it does not exist, or nothing was written yet.
        """
        try:
            found = self.path.read_bytes()
        except OSError:
            return False
        return bool(self._written) and hashlib.sha256(found).digest() != self._written

    def write(self, text: str) -> None:
        """Replace the content.

        Raises:
            OSError: it could not be replaced; the old content is still there.
        """
        content = text.encode()
        # A name that does not change, so that the next write removes what a killed one has left.
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a Path cannot open a descriptor
                file.write(content)
                file.flush()
                # In this order: a change of the group takes bits of the mode away.
                if self._group is not None:
                    os.fchown(descriptor, -1, self._group)
                os.fchmod(descriptor, self._mode)
                # A rename may survive a crash of the machine that its content does not.
                os.fsync(descriptor)
            new.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._written = hashlib.sha256(content).digest()

    def remove(self) -> None:
        """Remove the file, unless it has another content than was written last.

        Raises:
            OSError: it could not be removed.
        """
        if self._written and not self.is_replaced:
            self.path.unlink(missing_ok=True)
        self._written = b""
