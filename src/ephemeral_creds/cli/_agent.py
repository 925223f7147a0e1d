"""A real Vault Agent as the sidecar."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ephemeral_creds.cli._sidecar import SidecarFolder
from ephemeral_creds.cli._world import ROLE
from ephemeral_creds.testing import VaultAgent, dotenv_template

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds.cli._world import World

__all__ = ["AgentSidecar"]


class AgentSidecar(SidecarFolder):
    """The real thing, ``vault agent`` or ``bao agent``, with the usual template."""

    def __init__(self, world: World, binary: Path) -> None:
        super().__init__(world)
        self.description = f"{binary.name} agent"
        self._agent = VaultAgent(
            world.config.address,
            world.login,
            templates={self.path: dotenv_template(f"{world.mount}/creds/{ROLE}")},
            mount=world.mount,
            environment=_to_reach_vault() if world.is_external else {},
            binary=binary,
        )

    def start(self) -> None:
        """Start the agent."""
        self._agent.start()

    def check(self) -> None:
        """Go on unless the agent has ended.

        Raises:
            ConfigurationError: it has.
        """
        self._agent.check()

    def close(self) -> None:
        """Stop the agent, revoke its token, and remove the files."""
        try:
            self._agent.stop()
            # None where the agent was stopped before it had logged in.
            if (token := self._agent.token) is not None:
                self.revoke_token(token)
        finally:
            self._agent.close()
            self.remove()


def _to_reach_vault() -> dict[str, str]:
    """Return the variables that tell how; whoever started the demo is not the agent."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("VAULT_", "BAO_")) and name not in ("VAULT_TOKEN", "BAO_TOKEN")
    }
