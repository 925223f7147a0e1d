"""A real Vault Agent as the sidecar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from ephemeral_creds import ConfigurationError, Secret
from ephemeral_creds.cli._sidecar import SidecarFolder
from ephemeral_creds.cli._world import ROLE
from ephemeral_creds.testing._process import end_process, plain_environment

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds.cli._world import World

__all__ = ["VaultAgent"]


class VaultAgent(SidecarFolder):
    """The real thing, ``vault agent`` or ``bao agent``, with the usual template."""

    def __init__(self, world: World, binary: Path) -> None:
        super().__init__(world)
        self.description = f"{binary.name} agent"
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent."""
        login = self.world.login
        self._private("role-id", login.role_id)
        self._private("secret-id", login.secret_id.reveal())
        config = self._private("agent.json", json.dumps(self._config()))
        # How to reach an external Vault stays; whoever started the demo is not the agent.
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("VAULT_", "BAO_"))
            and name not in ("VAULT_TOKEN", "BAO_TOKEN")
            and self.world.is_external
        }
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._binary, "agent", f"-config={config}"],
                cwd=self.home,
                env=plain_environment({**kept, "HOME": str(self.home)}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Go on unless the agent has ended.

        Raises:
            ConfigurationError: it has.
        """
        if self._process is not None and self._process.poll() is not None:
            said = (self.home / "log").read_text(errors="replace").strip()[-500:]
            raise ConfigurationError(f"{self.description} has ended by itself: {said}")

    def close(self) -> None:
        """Stop the agent, revoke its token, and remove the files."""
        process, self._process = self._process, None
        try:
            if process is not None:
                end_process(process, (signal.SIGTERM, 5.0))
                sink = self.home / "token"
                # Not there where the agent was stopped before it had logged in.
                if sink.exists() and (token := sink.read_text().strip()):
                    self.revoke_token(Secret(token))
        finally:
            self.remove()

    def _config(self) -> dict[str, object]:
        path = f"{self.world.mount}/creds/{ROLE}"
        home = self.home
        return {
            "vault": {"address": self.world.config.address},
            "auto_auth": {
                "method": [
                    {
                        "type": "approle",
                        "mount_path": f"auth/{self.world.mount}",
                        "config": {
                            "role_id_file_path": str(home / "role-id"),
                            "secret_id_file_path": str(home / "secret-id"),
                            "remove_secret_id_file_after_reading": False,
                        },
                    }
                ],
                "sink": [{"type": "file", "config": {"path": str(home / "token"), "mode": 0o600}}],
            },
            "template": [
                {
                    "contents": f'{{{{- with secret "{path}" -}}}}\n'
                    "DB_USERNAME={{ .Data.username }}\n"
                    "DB_PASSWORD={{ .Data.password }}\n"
                    "{{- end -}}\n",
                    "destination": str(self.path),
                    "perms": "0644",
                }
            ],
        }

    def _private(self, name: str, text: str) -> Path:
        path = self.home / name
        path.touch(0o600)
        path.write_text(text)
        return path
