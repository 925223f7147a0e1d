"""A real Vault (or OpenBao) of one's own, in development mode: all in memory, gone at the end."""

from __future__ import annotations

import json
import re
import secrets
import signal
import time
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import VaultAdmin
from ephemeral_creds.testing._binaries import find_vault, vault_version
from ephemeral_creds.testing._http import VaultCallFailed
from ephemeral_creds.testing._owned import OwnedProcess
from ephemeral_creds.testing._process import free_port
from ephemeral_creds.testing._vault_config import as_hcl, tls_listeners
from ephemeral_creds.testing._vault_like import is_below, no_tls_listener

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["VaultServer"]

_START_TIMEOUT = 60.0  # the binary has 400 MB; a cold read from a slow disk takes its time
_POLL = 0.02


class VaultServer:
    """A real server in development mode on 127.0.0.1.

    It keeps everything in memory, so a stopped one has forgotten it all; use `pause`, `seal` or
    a `TCPProxy` in front for outages that pass, or a `PersistentVaultServer`. A request log
    (Vault's audit device, in which secrets are hashed) counts the leases that were handed out.

    `stop`, `close`, the end of a ``with`` block and the interpreter's exit remove process and
    folder.

    Args:
        binary: the program; ``None`` takes what `find_vault` finds.
        config: further settings in Vault's own language (HCL).
        tls_certificate: paths of a certificate and its key, with which it also listens at
            `tls_address`. A client may show a certificate of its own.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        config: str = "",
        tls_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        found = binary or find_vault()
        if found is None:
            raise ConfigurationError(
                "no Vault was found: install vault or bao, name one in "
                "EPHEMERAL_CREDS_VAULT_BINARY, or use VaultEmulator"
            )
        self.binary = found
        self._config = config
        self._root_token = Secret(secrets.token_urlsafe(24))
        self._tls_certificate = tls_certificate
        self._port = self._tls_port = 0
        self._version = ""
        self._own = OwnedProcess("vault", self.close)

    def __repr__(self) -> str:
        return f"<VaultServer {self.address}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT``; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def tls_address(self) -> str:
        """The base URL of its TLS listener, ``https://127.0.0.1:PORT``; stays the same too.

        Raises:
            ConfigurationError: it has none.
        """
        if self._tls_certificate is None:
            raise no_tls_listener(type(self).__name__)
        return f"https://127.0.0.1:{self._tls_port}"

    @property
    def root_token(self) -> Secret:
        """A token that may do everything; random for each server."""
        return self._root_token

    @property
    def version(self) -> str:
        """For example ``Vault 1.21.1``; asks the binary."""
        if not self._version:
            self._version = vault_version(self.binary)
        return self._version

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._own.running

    def start(self) -> Self:
        """Start, empty, and return once it answers; nothing happens if it runs.

        Raises:
            ConfigurationError: it would not start.
        """
        if self.running:
            return self
        self._port = self._port or free_port()
        self._tls_port = self._tls_port or free_port()
        try:
            self._bring_up()
        except BaseException:  # Ctrl-C included: leave nothing behind
            self.kill()
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop, and forget everything but the address; nothing happens if it does not run."""
        self.resume()  # a stopped process would not hear the signal
        self._own.end((signal.SIGINT, 5.0))
        self._forget()

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._own.end()
        self._forget()

    def close(self) -> None:
        """Stop it, and remove its folder. May be called again."""
        self.stop()
        self._remove()

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        self._own.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._own.resume()

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        VaultAdmin(self).call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Go on after `seal`, and return once requests are served again."""
        VaultAdmin(self).call("PUT", "sys/unseal", {"key": self._unseal_key().reveal()})
        self._wait_until_ready()

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it since the start."""
        count = 0
        with self._file("requests.log").open() as log:
            for line in log:
                if not line.endswith("\n"):
                    break  # being written right now
                entry = json.loads(line)
                answered = entry["type"] == "response" and not entry.get("error")
                if answered and is_below(entry["request"].get("path", ""), path):
                    count += "lease_id" in entry["response"].get("secret", {})
        return count

    def _bring_up(self) -> None:
        token = self._root_token.reveal()
        self._spawn(
            "-dev",
            "-dev-no-store-token",
            f"-dev-listen-address=127.0.0.1:{self._port}",
            config=self._config + as_hcl(tls_listeners(self._tls_port, self._tls_certificate)),
            # The token travels in the environment: arguments can be read by every user.
            VAULT_DEV_ROOT_TOKEN_ID=token,
            BAO_DEV_ROOT_TOKEN_ID=token,
        )
        self._wait_until_ready()
        self._keep_a_request_log()

    def _unseal_key(self) -> Secret:
        # It answers requests before it has printed what it has to say.
        give_up_at = time.monotonic() + _START_TIMEOUT
        while (match := re.search(r"Unseal Key: (\S+)", self._output())) is None:
            if not self.running or time.monotonic() > give_up_at:
                raise VaultCallFailed("the server did not say its unseal key")
            time.sleep(_POLL)
        return Secret(match[1])

    def _spawn(self, *options: str, config: str = "", **variables: str) -> None:
        self._own.make_folder()
        if config:
            self._file("config.hcl").write_text(config)
            options = (*options, "-config=config.hcl")
        self._own.spawn(
            [self.binary, "server", *options],
            output="output",
            environment={"HOME": str(self._own.folder), **variables},
        )

    def _wait_until_ready(self) -> None:
        # The root token's own page: health turns good before the token store does.
        self._wait_for_status("auth/token/lookup-self", 200)

    def _wait_for_status(self, path: str, *wanted: int) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            try:
                if VaultAdmin(self).request("GET", path).status in wanted:
                    return
            except OSError:
                pass
            time.sleep(_POLL)
        raise ConfigurationError(f"{self.binary} did not start on {self.address}")

    def _keep_a_request_log(self) -> None:
        options = {"file_path": str(self._file("requests.log"))}
        VaultAdmin(self).call("PUT", "sys/audit/requests", {"type": "file", "options": options})

    def _file(self, name: str) -> Path:
        return self._own.folder / name

    def _output(self) -> str:
        return self._file("output").read_text(errors="replace")

    def _forget(self) -> None:
        self._remove()

    def _remove(self) -> None:
        self._own.remove()
