"""A Docker engine and Compose, where they are. Nothing here fetches an image."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["docker", "find_compose", "require_images", "succeeds"]


def succeeds(*command: str) -> bool:
    """Say whether a command is there and ends well."""
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def find_compose() -> list[str] | None:
    """Return the command: Docker's plugin, or the older program of its own."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if succeeds(*command, "version"):
            return command
    return None


def require_images(names: Iterable[str]) -> None:
    """Skip the test unless an engine answers that has these images."""
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers here")
    missing = sorted(name for name in names if not succeeds("docker", "image", "inspect", name))
    if missing:
        pytest.skip(
            f"images that are not here: {', '.join(missing)}; "
            "examples/docker-compose/tests/images.sh gets them"
        )


def docker(*arguments: str, said: str = "") -> str:
    """Run a command of the engine's and return what it prints.

    Args:
        arguments: what follows ``docker``.
        said: its standard input.
    """
    done = subprocess.run(
        ["docker", *arguments], input=said, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"docker {arguments[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout
