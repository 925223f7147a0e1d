"""An agent of one's own: a sidecar that writes files, or a proxy in front of Vault."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._agent_config import agent_config
from ephemeral_creds.testing._binaries import find_vault
from ephemeral_creds.testing._owned import OwnedProcess
from ephemeral_creds.testing._process import free_port, private_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ephemeral_creds.testing._admin import AppRole
    from ephemeral_creds.testing._kubernetes import ServiceAccount

__all__ = ["VaultAgent"]

_POLL = 0.02
_LOG_TAIL = 500


class VaultAgent:
    """``vault agent`` or ``bao agent``, as a sidecar runs it.

    It logs in by itself, renders templates into files and keeps those fresh. With ``api_proxy``
    it also passes requests on to Vault with its own token, and keeps answers in its cache.

    `stop` and `kill` leave the files; `start` goes on, as a restarted container does: with a login
    of its own, and new credentials. `close`, the end of a ``with`` block and the interpreter's
    exit remove process and folder, but not what the templates wrote.

    Args:
        vault: the address of a Vault.
        login: an `AppRole` or a `ServiceAccount`.
        templates: contents by destination; see `dotenv_template`.
        mount: where the auth method is mounted; ``None`` is its usual place.
        perms: the mode of the files; ``None`` leaves it to the agent, which takes 0644.
        api_proxy: whether to listen at `address`.
        environment: variables for the agent, such as ``VAULT_CACERT``.
        binary: the program; ``None`` takes what `find_vault` finds.

    Raises:
        ConfigurationError: there is no binary.
    """

    def __init__(
        self,
        vault: str,
        login: AppRole | ServiceAccount,
        *,
        templates: Mapping[Path, str] | None = None,
        mount: str | None = None,
        perms: str | None = None,
        api_proxy: bool = False,
        environment: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        self.binary = binary or find_vault()
        self._vault = vault
        self._login = login
        self._templates = dict(templates or {})
        self._mount = mount
        self._perms = perms
        self._api_proxy = api_proxy
        self._environment = dict(environment or {})
        self._port = 0
        self._own = OwnedProcess("agent", self.close)

    def __repr__(self) -> str:
        return f"<VaultAgent running={self.running}>"

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait()
        except BaseException:  # Ctrl-C included: leave nothing behind
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where it listens as a proxy; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the agent's process is alive."""
        return self._own.running

    @property
    def log(self) -> str:
        """What it has said so far, over all its starts."""
        return self._file("log").read_text(errors="replace")

    @property
    def token(self) -> Secret | None:
        """The token it works with now; ``None`` before its first login and after `close`."""
        if not self._own.has_folder:
            return None
        try:
            text = self._file("token").read_text().strip()
        except FileNotFoundError:
            return None
        return Secret(text) if text else None

    def start(self) -> None:
        """Start the agent; it logs in and writes a little later: see `wait`."""
        if self.running:
            return
        self._own.make_folder()
        self._port = self._port or free_port()
        # What an earlier run left says nothing about this one.
        self._file("token").unlink(missing_ok=True)
        config = agent_config(
            self._own.folder,
            self._vault,
            self._login,
            self._mount,
            self._templates,
            self._perms,
            f"127.0.0.1:{self._port}" if self._api_proxy else None,
        )
        private_file(self._file("agent.json"), json.dumps(config))
        self._own.spawn(
            [self.binary, "agent", "-config=agent.json"],
            output="log",
            environment={"HOME": str(self._own.folder), **self._environment},
        )

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until it has logged in and every file is there.

        Args:
            timeout: seconds.

        Raises:
            ConfigurationError: it has ended, or not come so far in time.
        """
        give_up_at = time.monotonic() + timeout
        while self.token is None or not all(path.exists() for path in self._templates):
            self.check()
            if time.monotonic() > give_up_at:
                raise ConfigurationError(
                    f"{self.binary.name} agent has not logged in and written its files after "
                    f"{timeout:g} s: {self.log.strip()[-_LOG_TAIL:]}"
                )
            time.sleep(_POLL)

    def check(self) -> None:
        """Go on unless it has ended by itself.

        Raises:
            ConfigurationError: it has; the message has the last lines of its log.
        """
        if self._own.ended_by_itself:
            raise ConfigurationError(
                f"{self.binary.name} agent has ended by itself: {self.log.strip()[-_LOG_TAIL:]}"
            )

    def stop(self) -> None:
        """Stop it as Kubernetes does; nothing happens if it does not run."""
        self._own.end((signal.SIGTERM, 5.0))

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._own.end()

    def close(self) -> None:
        """Stop it and remove its folder; what it wrote elsewhere stays. May be called again."""
        self.stop()
        self._own.remove()

    def _file(self, name: str) -> Path:
        return self._own.folder / name
