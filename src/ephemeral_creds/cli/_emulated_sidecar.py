"""A thread as the sidecar, where there is no Vault Agent."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ephemeral_creds import EphemeralCredsError, Secret
from ephemeral_creds.cli._sidecar import SidecarFolder
from ephemeral_creds.cli._world import ROLE
from ephemeral_creds.testing import VaultCallFailed

if TYPE_CHECKING:
    from ephemeral_creds.cli._world import World
    from ephemeral_creds.testing import VaultResponse

__all__ = ["EmulatedSidecar"]

_RETRY = 0.5  # seconds after a failure; short against a lease of four
_OVERLAP = 1.0  # seconds that old and new credentials both work: what Vault Agent leaves


class EmulatedSidecar(SidecarFolder):
    """A thread that does what Vault Agent does, where there is none."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.description = "a stand-in for Vault Agent"
        self._token: Secret | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-sidecar", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Do nothing: it tries again for ever."""

    def close(self) -> None:
        """Stop the thread, revoke its token, and remove the files."""
        self._stopping.set()
        try:
            if self._thread.ident is not None:
                self._thread.join()
            token, self._token = self._token, None
            if token is not None:
                self.revoke_token(token)
        finally:
            self.remove()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow_one_lease()
            except (EphemeralCredsError, OSError, VaultCallFailed):
                self._stopping.wait(_RETRY)

    def _follow_one_lease(self) -> None:
        """Fetch credentials, write them down and renew them until they end soon."""
        asked_at = time.monotonic()
        answer = self._read()
        self._write(answer.data["username"], Secret(answer.data["password"]))
        lease = answer.body["lease_id"]
        first = duration = float(answer.body["lease_duration"])
        while duration >= first:
            if self._stopping.wait(max(asked_at + duration * 2 / 3 - time.monotonic(), 0.0)):
                return
            asked_at = time.monotonic()
            body = {"lease_id": lease, "increment": int(first)}
            renewed = self._request("POST", "sys/leases/renew", body)
            if renewed.status >= 400:
                return
            duration = float(renewed.body["lease_duration"])
        self._stopping.wait(max(asked_at + duration - _OVERLAP - time.monotonic(), 0.0))

    def _read(self) -> VaultResponse:
        if self._token is None:
            self._log_in()
        answer = self._request("GET", f"{self.world.mount}/creds/{ROLE}")
        if answer.status == 403:
            self._token = None
        if answer.status >= 400:
            raise VaultCallFailed(f"no credentials: {answer.status} {answer.errors}")
        return answer

    def _log_in(self) -> None:
        login = self.world.login
        body = {"role_id": login.role_id, "secret_id": login.secret_id.reveal()}
        path = f"auth/{self.world.mount}/login"
        answer = self.world.admin.call("POST", path, body)
        self._token = Secret(answer.body["auth"]["client_token"])

    def _request(
        self, method: str, path: str, body: dict[str, object] | None = None
    ) -> VaultResponse:
        return self.world.admin.request(method, path, body, token=self._token)

    def _write(self, username: str, password: Secret) -> None:
        """Replace the file by a rename, with no newline at its end and readable by all."""
        text = f"DB_USERNAME={username}\nDB_PASSWORD={password.reveal()}"
        new = self.path.with_suffix(".new")
        new.touch(0o600)
        new.write_text(text)
        new.chmod(0o644)
        new.replace(self.path)
