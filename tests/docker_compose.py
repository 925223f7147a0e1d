"""Docker Compose, where there is one."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["find_compose", "succeeds"]


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
