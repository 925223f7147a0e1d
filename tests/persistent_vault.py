"""A Vault or OpenBao that can be restarted: its storage is on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ephemeral_creds import Secret
from ephemeral_creds.testing import VaultAdmin, VaultServer
from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from pathlib import Path

# What sys/health says while there is no storage yet, and while it is sealed: see
# https://developer.hashicorp.com/vault/api-docs/system/health.
_NOT_INITIALISED, _SEALED = 501, 503


class PersistentVaultServer(VaultServer):
    """A server on 127.0.0.1 that has forgotten nothing after `stop` (or `kill`) and `start`.

    Everything else is as with `VaultServer`; it initialises and unseals itself.
    """

    def __init__(
        self, binary: Path | None = None, *, tls_certificate: tuple[Path, Path] | None = None
    ) -> None:
        super().__init__(binary, tls_certificate=tls_certificate)
        self._key: Secret | None = None
        self._cluster_port = 0

    def _launch(self) -> None:
        home = self._make_folder()
        (home / "storage").mkdir(exist_ok=True)
        self._cluster_port = self._cluster_port or free_port()
        (home / "config.json").write_text(json.dumps(self._settings()))
        self._serve("-config=config.json")
        self._wait_for_status("sys/health", _NOT_INITIALISED, _SEALED)
        if self._key is None:
            shares = {"secret_shares": 1, "secret_threshold": 1}
            made = VaultAdmin(self).call("PUT", "sys/init", shares).body
            self._key, self.root_token = Secret(made["keys"][0]), Secret(made["root_token"])
        self.unseal()

    def _settings(self) -> dict[str, object]:
        # Else it would take the port after that of each listener, which another server may have.
        cluster = f"127.0.0.1:{self._cluster_port}"
        listeners = [{"address": f"127.0.0.1:{self._port}", "tls_disable": "true"}]
        if self._tls_certificate:
            cert, key = (str(path.absolute()) for path in self._tls_certificate)
            where = f"127.0.0.1:{self._tls_port}"
            listeners.append({"address": where, "tls_cert_file": cert, "tls_key_file": key})
        return {
            # OpenBao has no plainer one that keeps anything. It is its own leader at once, or
            # nearly: there is no other node to wait for.
            "storage": {"raft": {"path": "storage", "node_id": "1", "performance_multiplier": "1"}},
            "listener": [{"tcp": each | {"cluster_address": cluster}} for each in listeners],
            "api_addr": self.address,
            "cluster_addr": f"https://{cluster}",
            "disable_mlock": True,
        }

    def _unseal_key(self) -> Secret:
        assert self._key is not None, "the server has not been started"
        return self._key

    def _forget(self) -> None:
        """Keep it all: that is the point."""

    def _remove(self) -> None:
        super()._remove()
        self._key = None
