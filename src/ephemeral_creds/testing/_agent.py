"""`VaultAgent`: a sidecar that writes files, or a proxy in front of Vault."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import AppRole
from ephemeral_creds.testing._binaries import find_vault
from ephemeral_creds.testing._process import OwnedProcess, free_port, private_file, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["VaultAgent", "dotenv_template"]


def dotenv_template(path: str) -> str:
    """Return the usual template: ``DB_USERNAME=`` and ``DB_PASSWORD=``, no newline at the end.

    Credentials are read at `path`, such as ``database/creds/my-app-role``.
    """
    return (
        f'{{{{- with secret "{path}" -}}}}\n'
        "DB_USERNAME={{ .Data.username }}\n"
        "DB_PASSWORD={{ .Data.password }}\n"
        "{{- end -}}\n"
    )


class VaultAgent(OwnedProcess):
    """``vault agent`` or ``bao agent``, as a sidecar runs it.

    It logs in by itself, renders templates into files and keeps those fresh. With ``api_proxy``
    it also passes requests on to Vault with its own token, and keeps answers in its cache.

    `start` returns at once; see `wait`. After `stop` or `kill` it continues
    like a restarted container: with a login of its own, and new credentials. The files
    stay, also after `close`.

    Args:
        vault: the address of a Vault.
        login: an `AppRole`, or what the agent's own configuration calls ``method``.
        templates: contents by destination; see `dotenv_template`.
        perms: the mode of the files; the agent's own is 0644.
        api_proxy: whether to listen at `address`.
        environment: variables for the agent, such as ``VAULT_CACERT``.
        binary: the program; ``None`` takes what `find_vault` finds.

    Raises:
        ConfigurationError: there is no binary.
    """

    _NAME = "agent"

    def __init__(
        self,
        vault: str,
        login: AppRole | Mapping[str, object],
        *,
        templates: Mapping[Path, str] | None = None,
        perms: str | None = None,
        api_proxy: bool = False,
        environment: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        super().__init__()
        self.binary = binary or find_vault()
        self._vault = vault
        self._login = login
        self._templates = dict(templates or {})
        self._perms = perms
        self._api_proxy = api_proxy
        self._environment = dict(environment or {})
        self._port = 0

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

    @property
    def address(self) -> str:
        """Where it listens as a proxy; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> str:
        """What it has said so far, over all its starts."""
        return self._log()

    @property
    def token(self) -> Secret | None:
        """The token it works with now; ``None`` before its first login and after `close`."""
        try:
            text = (self.folder / "token").read_text().strip()
        except (RuntimeError, FileNotFoundError):
            return None
        return Secret(text) if text else None

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until it has logged in and every file is there.

        Raises:
            ConfigurationError: it has ended, or is not ready after `timeout` seconds.
        """

        def is_ready() -> bool:
            self.check()
            return self.token is not None and all(path.exists() for path in self._templates)

        if not wait_until(is_ready, timeout):
            raise self._failed(f"has not logged in and written its files after {timeout:g} s")

    def check(self) -> None:
        """Continue unless it has ended by itself.

        Raises:
            ConfigurationError: it has; the message has the last lines of its log.
        """
        if self._process is not None and not self.running:
            raise self._failed("has ended by itself")

    def stop(self) -> None:
        """Stop it as Kubernetes does; nothing happens if it does not run."""
        self._end((signal.SIGTERM, 5.0))

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._end()

    def _failed(self, how: str) -> ConfigurationError:
        return ConfigurationError(f"{self.binary.name} agent {how}: {self.log.strip()[-500:]}")

    def _bring_up(self) -> None:
        home = self._make_folder()
        self._port = self._port or free_port()
        # What an earlier run left says nothing about this one.
        (home / "token").unlink(missing_ok=True)
        private_file(home / "agent.json", json.dumps(self._config()))
        self._spawn(
            [self.binary, "agent", "-config=agent.json"], {"HOME": str(home), **self._environment}
        )

    def _config(self) -> dict[str, object]:
        # Its own minimum is a second, far longer than a Vault on the same machine is unreachable.
        method = {"min_backoff": "100ms", **self._method()}
        sink = {"type": "file", "config": {"path": str(self.folder / "token"), "mode": 0o600}}
        mode = {} if self._perms is None else {"perms": self._perms}
        config: dict[str, object] = {
            "vault": {"address": self._vault},
            "auto_auth": {"method": [method], "sink": [sink]},
        }
        # Vault's agent does not take an empty list of them, though OpenBao's does.
        if self._templates:
            config["template"] = [
                {"contents": contents, "destination": str(path), **mode}
                for path, contents in self._templates.items()
            ]
        if self._api_proxy:
            address = self.address.removeprefix("http://")
            config |= {
                "api_proxy": {"use_auto_auth_token": True},
                "cache": {},
                "listener": [{"tcp": {"address": address, "tls_disable": True}}],
            }
        return config

    def _method(self) -> Mapping[str, object]:
        if not isinstance(self._login, AppRole):
            return self._login
        role_id = private_file(self.folder / "role-id", self._login.role_id)
        secret_id = private_file(self.folder / "secret-id", self._login.secret_id.reveal())
        return {
            "type": "approle",
            "mount_path": f"auth/{self._login.mount}",
            "config": {
                "role_id_file_path": str(role_id),
                "secret_id_file_path": str(secret_id),
                "remove_secret_id_file_after_reading": False,
            },
        }
