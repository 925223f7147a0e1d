"""A Vault or OpenBao of one's own, in development mode: all in memory, gone at the end."""

from __future__ import annotations

import re
import secrets
import signal
import time
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import VaultAdmin
from ephemeral_creds.testing._binaries import find_vault, vault_version
from ephemeral_creds.testing._http import VaultCallFailed, vault_request
from ephemeral_creds.testing._owned import OwnedProcess
from ephemeral_creds.testing._process import free_port
from ephemeral_creds.testing._vault_access import VaultAccess
from ephemeral_creds.testing._vault_config import as_hcl, tls_listeners

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VaultServer"]

_START_TIMEOUT = 60.0  # the binary has 400 MB; a cold read from a slow disk takes its time
_POLL = 0.02


class VaultServer(VaultAccess):
    """A real server in development mode on 127.0.0.1.

    It keeps everything in memory, so a stopped one has forgotten it all; use `pause`, `seal` or
    a `TCPProxy` in front for outages that pass, or a `PersistentVaultServer`. What is sent to
    `address` passes a `FaultProxy`, which counts the leases that were handed out, writes each
    request down, and can have one go wrong; what is sent to `tls_address` goes past it.

    `stop`, `close`, the end of a ``with`` block and the interpreter's exit remove process and
    folder.

    Args:
        binary: the program; ``None`` takes what `find_vault` finds.
        config: further settings in Vault's own language (HCL).
        tls_certificate: paths of a certificate and its key, with which it also listens at
            `tls_address`. A client may show a certificate of its own.

    Raises:
        ConfigurationError: there is no program.

    Attributes:
        binary: the program.
        faults: the script of what goes wrong.
        requests: every request to `address` so far, in the order in which they arrived.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        config: str = "",
        tls_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(Secret(secrets.token_urlsafe(24)))
        self.binary = binary or find_vault()
        self._config = config
        self._tls_certificate = tls_certificate
        self._port = self._tls_port = 0
        self._version = ""
        self._own = OwnedProcess("vault", self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tls_address(self) -> str:
        """The base URL of its TLS listener, ``https://127.0.0.1:PORT``; stays the same too.

        Raises:
            ConfigurationError: it has none.
        """
        if self._tls_certificate is None:
            raise ConfigurationError(
                f"this {type(self).__name__} does not listen for TLS: make it with "
                "tls_certificate=(certificate, key)"
            )
        return f"https://127.0.0.1:{self._tls_port}"

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
        self._proxy.target = ("127.0.0.1", self._port)
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
        self._proxy.stop()
        self.resume()  # a stopped process would not hear the signal
        self._own.end((signal.SIGINT, 5.0))
        self._forget()

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._proxy.stop()
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
        self._proxy.start()
        self._wait_until_ready()

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
        # Health says whether it is active: OpenBao answers reads before it is. The root token's own
        # page says whether its token store is ready, which comes after that.
        self._wait_for_status("sys/health", 200)
        self._wait_for_status("auth/token/lookup-self", 200)

    def _wait_for_status(self, path: str, *wanted: int) -> None:
        # Not through the proxy, which is for what a test and its library send.
        server, token = self.server_address, self._root_token
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            try:
                if vault_request(server, "GET", path, token=token).status in wanted:
                    return
            except OSError:
                pass
            time.sleep(_POLL)
        raise ConfigurationError(f"{self.binary} did not start on {self.address}")

    def _file(self, name: str) -> Path:
        return self._own.folder / name

    def _output(self) -> str:
        return self._file("output").read_text(errors="replace")

    def _forget(self) -> None:
        for record in self.requests:
            record.leased = False
        self._remove()

    def _remove(self) -> None:
        self._own.remove()
