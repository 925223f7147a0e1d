"""A real Vault that keeps what it knows when it stops, for outages that a restart ends."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._http import VaultCallFailed, vault_request
from ephemeral_creds.testing._process import Guard, plain_environment
from ephemeral_creds.testing._vault import VaultServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DurableVaultServer"]

_START_TIMEOUT = 60.0  # as for any server of that size
_POLL = 0.02


class DurableVaultServer(VaultServer):
    """A real server on 127.0.0.1 with its storage in files.

    `stop` and `start` may be repeated: nothing is forgotten, and it is unsealed again at each
    start. `close`, the end of a ``with`` block and the interpreter's exit remove the storage.

    Args:
        binary: the program; ``None`` takes what `find_vault` finds.
    """

    def __init__(self, binary: Path | None = None) -> None:
        super().__init__(binary)
        self._unseal_key = Secret("")

    def stop(self) -> None:
        """Stop and keep everything; nothing happens if it does not run."""
        self.resume()
        self._end_process()

    def kill(self) -> None:
        """End the process at once, as a crash does, and keep everything."""
        self._end_process(at_once=True)

    def close(self) -> None:
        """Stop and remove everything. May be called again."""
        self.stop()
        self._remove()

    def unseal(self) -> None:
        """Go on after `seal` or a start, and return once requests are served again."""
        key = self._unseal_key.reveal()
        vault_request(self.address, "PUT", "sys/unseal", {"key": key})
        super()._wait_until_ready()

    def _spawn(self) -> None:
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-vault-"))
            (self._home / "data").mkdir()
        config = {
            "storage": {"file": {"path": str(self._home / "data")}},
            "listener": {"tcp": {"address": f"127.0.0.1:{self._port}", "tls_disable": True}},
            "api_addr": self.address,
            "disable_mlock": True,
        }
        self._file("config.json").write_text(json.dumps(config), encoding="utf-8")
        with self._file("output").open("ab") as output:
            self._process = subprocess.Popen(
                [self.binary, "server", f"-config={self._file('config.json')}"],
                cwd=self._home,
                env=plain_environment({"HOME": str(self._home)}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._guard = Guard(self._process, self._home)

    def _wait_until_ready(self) -> None:
        if not self._seal_status()["initialized"]:
            made = self._init()
            self._unseal_key = Secret(str(made["keys_base64"][0]))
            self._root_token = Secret(str(made["root_token"]))
        self.unseal()

    def _keep_a_request_log(self) -> None:
        if (
            "requests/"
            not in vault_request(self.address, "GET", "sys/audit", token=self._root_token).data
        ):
            super()._keep_a_request_log()

    def _seal_status(self) -> Mapping[str, object]:
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            try:
                answer = vault_request(self.address, "GET", "sys/seal-status")
            except OSError:
                pass
            else:
                if answer.status == 200:
                    return answer.body
            time.sleep(_POLL)
        raise ConfigurationError(f"{self.binary} did not start on {self.address}")

    def _init(self) -> dict[str, list[str]]:
        body = {"secret_shares": 1, "secret_threshold": 1}
        answer = vault_request(self.address, "PUT", "sys/init", body)
        if answer.status != 200:
            raise VaultCallFailed(f"PUT sys/init: {answer.status} {answer.errors}")
        return answer.body
