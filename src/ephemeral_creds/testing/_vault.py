"""`VaultServer`: a Vault or OpenBao in development mode, all in memory."""

from __future__ import annotations

import os
import re
import secrets
import signal
from contextlib import suppress
from functools import cached_property
from http.client import HTTPException
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._admin import VaultAdmin, VaultCallFailed, vault_request
from ephemeral_creds.testing._binaries import find_vault, vault_version
from ephemeral_creds.testing._fault_proxy import VaultAccess
from ephemeral_creds.testing._process import OwnedProcess, free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VaultServer"]

_START_TIMEOUT = 60.0  # the binary has 400 MB; a cold read from a slow disk takes its time
_PORT_ATTEMPTS = 3
_PORT_TAKEN = "bind: address already in use"


class VaultServer(VaultAccess, OwnedProcess):
    """A real server in development mode on 127.0.0.1.

    It keeps everything in memory, so a stopped one has forgotten it all; use `pause`, `seal` or
    faults for outages that pass. Requests to `tls_address` bypass the proxy.

    Args:
        binary: the program; ``None`` takes what `find_vault` finds.
        config: further settings in Vault's own language (HCL).
        tls_certificate: paths of a certificate and its key, with which it also listens at
            `tls_address`. It asks each client for a certificate and takes any:
            https://developer.hashicorp.com/vault/docs/configuration/listener/tcp.

    Raises:
        ConfigurationError: there is no program.
    """

    _NAME = "vault"

    def __init__(
        self,
        binary: Path | None = None,
        *,
        config: str = "",
        tls_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        VaultAccess.__init__(self, Secret(secrets.token_urlsafe(24)))
        OwnedProcess.__init__(self)
        self.binary = binary or find_vault()
        self._config = config
        self._tls_certificate = tls_certificate
        self._port = self._tls_port = 0

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

    @cached_property
    def version(self) -> str:
        """For example ``Vault 1.21.1``; asks the binary."""
        return vault_version(self.binary)

    def stop(self) -> None:
        """Stop, and forget everything but the address; nothing happens if it does not run."""
        self._hang_up()
        self.resume()  # a stopped process would not hear the signal
        self._end((signal.SIGINT, 5.0))
        self._forget()

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._hang_up()
        self._end()
        self._forget()

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        process = self._send(signal.SIGSTOP)
        # Its threads stop one by one, which takes its time on a busy machine: until the last of
        # them has, a request may still be answered.
        if process is not None and hasattr(os, "waitid"):  # not on macOS before Python 3.13
            # Whatever became of it is left for `Popen` to find.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._send(signal.SIGCONT)

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        VaultAdmin(self).call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Continue after `seal`, and return once requests are served again."""
        VaultAdmin(self).call("PUT", "sys/unseal", {"key": self._unseal_key().reveal()})
        self._wait_until_ready()

    def _bring_up(self) -> None:
        attempts = 1 if self._port else _PORT_ATTEMPTS
        while True:
            self._port = self._port or free_port()
            self._tls_port = self._tls_port or free_port()
            self.server_address = f"http://127.0.0.1:{self._port}"
            attempts -= 1
            try:
                self._launch()
            except ConfigurationError:
                # Between the choice of a port and the server's start, another process may take it.
                if not attempts or self.running or _PORT_TAKEN not in self._log():
                    raise
                self._end()
                self._port = self._tls_port = 0
            else:
                return

    def _launch(self) -> None:
        config, token = self._config, self.root_token.reveal()
        if self._tls_certificate:
            cert, key = (path.absolute() for path in self._tls_certificate)
            config += f"""
                listener "tcp" {{
                  address = "127.0.0.1:{self._tls_port}"
                  tls_cert_file = "{cert}"
                  tls_key_file = "{key}"
                }}
            """
        (self._make_folder() / "config.hcl").write_text(config)
        self._serve(
            "-config=config.hcl",
            "-dev",
            "-dev-no-store-token",
            f"-dev-listen-address=127.0.0.1:{self._port}",
            # The token travels in the environment: arguments can be read by every user.
            VAULT_DEV_ROOT_TOKEN_ID=token,
            BAO_DEV_ROOT_TOKEN_ID=token,
        )
        self._wait_until_ready()

    def _serve(self, *options: str, **variables: str) -> None:
        environment = {"HOME": str(self.folder), **variables}
        self._spawn([self.binary, "server", *options], environment)
        self._listen()

    def _unseal_key(self) -> Secret:
        # It answers requests before it has printed what it has to say.
        match = wait_until(lambda: re.search(r"Unseal Key: (\S+)", self._log()), _START_TIMEOUT)
        if match is None:
            raise VaultCallFailed("the server did not print its unseal key")
        return Secret(match[1])

    def _wait_until_ready(self) -> None:
        # Health says whether it is active: OpenBao answers reads before it is. The root token's own
        # page says whether its token store is ready, which comes after that.
        self._wait_for_status("sys/health", 200)
        self._wait_for_status("auth/token/lookup-self", 200)

    def _wait_for_status(self, path: str, *wanted: int) -> None:
        def answers() -> bool:
            # Not through the proxy, which is for what a test and its library send.
            with suppress(OSError, HTTPException):
                answer = vault_request(self.server_address, "GET", path, token=self.root_token)
                if answer.status in wanted:
                    return True
            # Also where it was another process that answered.
            return not self.running

        if not (wait_until(answers, _START_TIMEOUT) and self.running):
            raise ConfigurationError(f"{self.binary} did not start on {self.address}")

    def _forget(self) -> None:
        for record in self.requests:
            record.leased = False
        self._remove()
