"""A Vault or OpenBao that can be restarted: its storage is on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.testing._admin import VaultAdmin
from ephemeral_creds.testing._process import free_port
from ephemeral_creds.testing._vault import VaultServer
from ephemeral_creds.testing._vault_config import tls_listeners

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PersistentVaultServer"]

# What sys/health says while there is no storage yet, and while it is sealed: see
# https://developer.hashicorp.com/vault/api-docs/system/health.
_NOT_INITIALISED, _SEALED = 501, 503


class PersistentVaultServer(VaultServer):
    """A server on 127.0.0.1 that has forgotten nothing after `stop` (or `kill`) and `start`.

    Everything else is as with `VaultServer`; it initialises and unseals itself. `close`, the end
    of a ``with`` block and the interpreter's exit remove process and storage.

    Args:
        binary: the program; ``None`` takes what `find_vault` finds.
        tls_certificate: paths of a certificate and its key, with which it also listens at
            `tls_address`. A client may show a certificate of its own.
    """

    def __init__(
        self, binary: Path | None = None, *, tls_certificate: tuple[Path, Path] | None = None
    ) -> None:
        super().__init__(binary, tls_certificate=tls_certificate)
        self._key: Secret | None = None
        self._cluster_port = 0

    def _bring_up(self) -> None:
        self._own.make_folder()
        self._file("storage").mkdir(exist_ok=True)
        self._cluster_port = self._cluster_port or free_port()
        self._spawn(config=json.dumps(self._settings()))
        self._proxy.start()
        self._wait_for_status("sys/health", _NOT_INITIALISED, _SEALED)
        if self._key is None:
            shares = {"secret_shares": 1, "secret_threshold": 1}
            made = VaultAdmin(self).call("PUT", "sys/init", shares).body
            self._key, self._root_token = Secret(made["keys"][0]), Secret(made["root_token"])
            self.unseal()
        else:
            self.unseal()

    def _settings(self) -> dict[str, object]:
        # Else it would take the port after that of each listener, which may be anybody's.
        cluster = f"127.0.0.1:{self._cluster_port}"
        plain = {"address": f"127.0.0.1:{self._port}", "tls_disable": "true"}
        by_tls = tls_listeners(self._tls_port, self._tls_certificate)
        return {
            # OpenBao has no plainer one that keeps anything. It is its own leader at once, or
            # nearly: there is nobody to wait for.
            "storage": {"raft": {"path": "storage", "node_id": "1", "performance_multiplier": "1"}},
            "listener": [{"tcp": each | {"cluster_address": cluster}} for each in (plain, *by_tls)],
            "api_addr": self.address,
            "cluster_addr": f"https://{cluster}",
            "disable_mlock": True,
        }

    def _unseal_key(self) -> Secret:
        if self._key is None:
            raise RuntimeError("the server has not been started")
        return self._key

    def _forget(self) -> None:
        """Keep it all: that is the point."""

    def _remove(self) -> None:
        super()._remove()
        self._key = None
