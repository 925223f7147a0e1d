"""An agent as the sidecar, which keeps a file of credentials fresh."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds.cli._world import ROLE
from ephemeral_creds.testing import VaultAgent, dotenv_template

if TYPE_CHECKING:
    from ephemeral_creds.cli._world import World

__all__ = ["AgentSidecar"]


class AgentSidecar:
    """``vault agent`` or ``bao agent`` with the usual template, in a private folder.

    Args:
        world: where to get credentials from.

    Attributes:
        path: the file of credentials.
        description: which agent, for people.
    """

    def __init__(self, world: World) -> None:
        self._admin = world.admin
        self._home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-sidecar-"))
        self.path = self._home / "secrets" / "db-creds.txt"
        self.path.parent.mkdir()
        self.description = f"{world.binary.name} agent"
        self._agent = VaultAgent(
            world.config.address,
            world.login,
            templates={self.path: dotenv_template(f"{world.mount}/creds/{ROLE}")},
            environment=_to_reach_vault() if world.is_external else {},
            binary=world.binary,
        )

    def start(self) -> None:
        """Start the agent; the file comes a little later."""
        self._agent.start()

    def check(self) -> None:
        """Go on unless the agent has ended.

        Raises:
            ConfigurationError: it has.
        """
        self._agent.check()

    def close(self) -> None:
        """Stop the agent, revoke its token and so its leases, and remove the files."""
        try:
            self._agent.stop()
            # None where the agent was stopped before it had logged in.
            if (token := self._agent.token) is not None:
                self._admin.call("POST", "auth/token/revoke-self", token=token)
        finally:
            self._agent.close()
            shutil.rmtree(self._home, ignore_errors=True)


def _to_reach_vault() -> dict[str, str]:
    """Return the variables that tell how; whoever started the demo is not the agent."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("VAULT_", "BAO_")) and name not in ("VAULT_TOKEN", "BAO_TOKEN")
    }
