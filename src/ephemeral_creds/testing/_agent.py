"""A real Vault Agent of one's own: a sidecar that writes files, or a proxy in front of Vault."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import AppRole
from ephemeral_creds.testing._binaries import find_vault
from ephemeral_creds.testing._process import Guard, end_process, free_port, plain_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ephemeral_creds.testing._kubernetes import ServiceAccount

__all__ = ["VaultAgent", "dotenv_template"]

_POLL = 0.02
_LOG_TAIL = 500


def dotenv_template(path: str) -> str:
    """Return the usual template: ``DB_USERNAME=`` and ``DB_PASSWORD=``, no newline at the end.

    Args:
        path: where credentials are read, such as ``database/creds/my-app-role``.
    """
    return (
        f'{{{{- with secret "{path}" -}}}}\n'
        "DB_USERNAME={{ .Data.username }}\n"
        "DB_PASSWORD={{ .Data.password }}\n"
        "{{- end -}}\n"
    )


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
        found = binary or find_vault()
        if found is None:
            raise ConfigurationError(
                "no Vault Agent was found: install vault or bao, or name one in "
                "EPHEMERAL_CREDS_VAULT_BINARY"
            )
        self.binary = found
        self._vault = vault
        self._login = login
        self._templates = dict(templates or {})
        self._mount = mount
        self._perms = perms
        self._api_proxy = api_proxy
        self._environment = dict(environment or {})
        self._port = 0
        self._owner = os.getpid()
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

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

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where it listens as a proxy; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the agent's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has said so far, over all its starts."""
        return self._file("log").read_text(errors="replace")

    @property
    def token(self) -> Secret | None:
        """The token it works with now; ``None`` before its first login and after `close`."""
        if self._home is None:
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
        if self._home is None:
            atexit.register(self.close)
            self._home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-agent-"))
        self._port = self._port or free_port()
        # What an earlier run left says nothing about this one.
        self._file("token").unlink(missing_ok=True)
        config = self._private("agent.json", json.dumps(self._config()))
        with self._file("log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, "agent", f"-config={config}"],
                cwd=self._home,
                env=plain_environment({"HOME": str(self._home), **self._environment}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard = Guard(self._process, self._home)

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
        if self._process is not None and self._process.poll() is not None:
            raise ConfigurationError(
                f"{self.binary.name} agent has ended by itself: {self.log.strip()[-_LOG_TAIL:]}"
            )

    def stop(self) -> None:
        """Stop it as Kubernetes does; nothing happens if it does not run."""
        self._end((signal.SIGTERM, 5.0))

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._end()

    def close(self) -> None:
        """Stop it and remove its folder; what it wrote elsewhere stays. May be called again."""
        if os.getpid() != self._owner:
            return
        self.stop()
        home, self._home = self._home, None
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
        atexit.unregister(self.close)

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "vault": {"address": self._vault},
            "auto_auth": {
                "method": [self._method()],
                "sink": [
                    {"type": "file", "config": {"path": str(self._file("token")), "mode": 0o600}}
                ],
            },
        }
        if self._templates:
            perms = {} if self._perms is None else {"perms": self._perms}
            config["template"] = [
                {"contents": contents, "destination": str(path), **perms}
                for path, contents in self._templates.items()
            ]
        if self._api_proxy:
            config |= {
                "api_proxy": {"use_auto_auth_token": True},
                "cache": {},
                "listener": [{"tcp": {"address": f"127.0.0.1:{self._port}", "tls_disable": True}}],
            }
        return config

    def _method(self) -> dict[str, object]:
        login = self._login
        if isinstance(login, AppRole):
            kind, options = (
                "approle",
                {
                    "role_id_file_path": str(self._private("role-id", login.role_id)),
                    "secret_id_file_path": str(
                        self._private("secret-id", login.secret_id.reveal())
                    ),
                    "remove_secret_id_file_after_reading": False,
                },
            )
        else:
            kind, options = (
                "kubernetes",
                {
                    "role": login.role,
                    "token_path": str(self._private("jwt", login.jwt.reveal())),
                },
            )
        return {
            "type": kind,
            "mount_path": f"auth/{self._mount or kind}",
            "config": options,
            # Its own minimum is a second, far longer than a Vault on the same machine is away.
            "min_backoff": "100ms",
        }

    def _private(self, name: str, text: str) -> Path:
        path = self._file(name)
        path.touch(0o600)
        path.write_text(text)
        return path

    def _file(self, name: str) -> Path:
        if self._home is None:
            raise RuntimeError("the agent has not been started")
        return self._home / name

    def _end(self, *steps: tuple[signal.Signals, float]) -> None:
        if os.getpid() != self._owner:
            return
        process, self._process = self._process, None
        if process is not None:
            end_process(process, *steps)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()
