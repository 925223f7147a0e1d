"""Writers of credential files, each with the system calls that it makes."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WRITERS", "Writer"]


class Writer(ABC):
    """Writes one user name and password after the other below a folder.

    Args:
        folder: a folder of its own, which is there.
    """

    options: ClassVar[dict[str, str]] = {}
    """What `FileProvider` has to be told besides the path."""
    in_one_step = True
    """Whether no reader ever sees an empty or half written file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def path(self) -> Path:
        """What `FileProvider` is given."""

    @abstractmethod
    def write(self, username: str, password: str) -> None:
        """Replace what is there."""


class VaultAgent(Writer):
    """Vault Agent and its injector: temp file, fsync, chmod, rename, and only then chown."""

    @property
    def path(self) -> Path:
        return self.folder / "db-creds.txt"

    def write(self, username: str, password: str) -> None:
        self._replace(f"DB_USERNAME={username}\nDB_PASSWORD={password}")

    def _replace(self, content: str) -> None:
        temporary = self.folder / "2718281828"
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(descriptor, content.encode())
        os.fsync(descriptor)
        os.close(descriptor)
        temporary.chmod(0o600)
        self._before_rename()
        temporary.rename(self.path)
        os.chown(self.path, os.getuid(), os.getgid())

    def _before_rename(self) -> None:
        pass


class Injector(VaultAgent):
    """The injector's own template: every key, sorted, with nothing quoted."""

    @property
    def path(self) -> Path:
        return self.folder / "db-creds"

    def write(self, username: str, password: str) -> None:
        self._replace(f"password: {password}\nusername: {username}\n")


class ConsulTemplate(VaultAgent):
    """consul-template with ``backup = true``: the old file stays, as a hard link."""

    def _before_rename(self) -> None:
        backup = self.folder / "db-creds.txt.bak"
        backup.unlink(missing_ok=True)
        if self.path.exists():
            os.link(self.path, backup)


class InPlace(Writer):
    """A script that redirects into the file."""

    in_one_step = False

    @property
    def path(self) -> Path:
        return self.folder / "creds.json"

    def write(self, username: str, password: str) -> None:
        with self.path.open("w") as file:
            file.write(f'{{"username": "{username}", ')
            file.flush()
            file.write(f'"password": "{password}"}}\n')


class BindMountedFile(InPlace):
    """A bind mount of a single file: the reader's name always leads to the same inode.

    A second link does the same: a file that is replaced elsewhere is never seen here, and one
    that is rewritten in place sends no notification to this directory.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "host").mkdir()
        (folder / "container").mkdir()

    @property
    def path(self) -> Path:
        return self.folder / "container" / "creds.json"

    def write(self, username: str, password: str) -> None:
        on_host = self.folder / "host" / "creds.json"
        on_host.write_text(f'{{"username": "{username}", "password": "{password}"}}\n')
        if not self.path.exists():
            os.link(on_host, self.path)


class SecretVolume(Writer):
    """Kubelet, with a Secret that External Secrets or Vault Secrets Operator keeps up to date.

    Its AtomicWriter makes a new directory and renames a symlink to it over ``..data``; the links
    that users see stay as they are. Vault Secrets Operator adds ``_raw``, the whole answer.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._version = 0

    @property
    def path(self) -> Path:
        return self.folder

    def files(self, username: str, password: str) -> dict[str, str]:
        raw = f'{{"data": {{"username": "{username}", "password": "{password}"}}}}'
        return {"username": username, "password": password, "_raw": raw}

    def write(self, username: str, password: str) -> None:
        self._version += 1
        new = self.folder / f"..2026_11_25_18_00_00.{self._version:09}"
        new.mkdir(mode=0o755)
        files = self.files(username, password)
        for name, content in files.items():
            (new / name).write_text(content)
        data, temporary = self.folder / "..data", self.folder / "..data_tmp"
        old = data.resolve() if data.exists() else None
        temporary.symlink_to(new.name)
        temporary.rename(data)
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        if old is not None:
            shutil.rmtree(old)


class SecretVolumeFile(SecretVolume):
    """One file of such a volume: templated by External Secrets, for example."""

    @property
    def path(self) -> Path:
        return self.folder / "db.env"

    def files(self, username: str, password: str) -> dict[str, str]:
        return {"db.env": f"DB_USERNAME={username}\nDB_PASSWORD={password}\n"}


class CsiDriver(SecretVolume):
    """The Secrets Store CSI driver, which writes as kubelet does, under names of the user's."""

    options: ClassVar[dict[str, str]] = {"username_key": "db-user", "password_key": "db-pass"}

    def files(self, username: str, password: str) -> dict[str, str]:
        return {"db-user": username, "db-pass": password}


class OldCsiProvider(Writer):
    """A provider that writes each file itself, one after the other."""

    in_one_step = False

    @property
    def path(self) -> Path:
        return self.folder

    def write(self, username: str, password: str) -> None:
        for name, content in (("username", username), ("password", password)):
            (self.folder / name).write_text(content)


class TwoTemplates(OldCsiProvider):
    """An agent with a template per value: two renames."""

    def write(self, username: str, password: str) -> None:
        for name, content in (("username", username), ("password", password)):
            temporary = self.folder / "314159"
            temporary.write_text(content + "\n")
            temporary.rename(self.folder / name)


class Systemd(Writer):
    """systemd: each credential is a file, mode 0400, in a directory that is replaced as a whole."""

    options: ClassVar[dict[str, str]] = {
        "username_key": "db.username",
        "password_key": "db.password",
    }
    in_one_step = False

    @property
    def path(self) -> Path:
        return self.folder / "my-app.service"

    def write(self, username: str, password: str) -> None:
        new = self.folder / "my-app.service.new"
        new.mkdir(mode=0o700)
        for name, content in (("db.username", username), ("db.password", password)):
            (new / name).write_text(content)
            (new / name).chmod(0o400)
        new.chmod(0o500)
        if self.path.exists():
            old = self.folder / "my-app.service.old"
            self.path.rename(old)
            new.rename(self.path)
            old.chmod(0o700)
            shutil.rmtree(old)
        else:
            new.rename(self.path)


WRITERS = (
    VaultAgent,
    Injector,
    ConsulTemplate,
    InPlace,
    BindMountedFile,
    SecretVolume,
    SecretVolumeFile,
    CsiDriver,
    OldCsiProvider,
    TwoTemplates,
    Systemd,
)
