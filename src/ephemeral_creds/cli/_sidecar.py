"""What a sidecar is to the demo, and what the two kinds have in common."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ephemeral_creds import Secret
    from ephemeral_creds.cli._world import World

__all__ = ["Sidecar", "SidecarFolder"]


class Sidecar(Protocol):
    """Something that keeps a file of credentials fresh."""

    description: str
    path: Path

    def start(self) -> None:
        """Start; the file comes a little later."""

    def check(self) -> None:
        """Go on unless it has failed.

        Raises:
            ConfigurationError: it has.
        """

    def close(self) -> None:
        """Stop, revoke the token that the leases hang on, remove the files. May be repeated."""


class SidecarFolder:
    """A private folder with the file of credentials in it.

    Args:
        world: where to get them from.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-sidecar-"))
        self.path = self.home / "secrets" / "db-creds.txt"
        self.path.parent.mkdir()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.home, ignore_errors=True)

    def revoke_token(self, token: Secret) -> None:
        """End the sidecar's token, and with it its leases."""
        self.world.admin.call("POST", "auth/token/revoke-self", token=token)
