"""A real Vault (or OpenBao) of one's own, in development mode: all in memory, gone at the end."""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._binaries import find_vault
from ephemeral_creds.testing._http import VaultCallFailed, vault_request
from ephemeral_creds.testing._process import (
    Guard,
    end_process,
    free_port,
    plain_environment,
    wait_until_stopped,
)
from ephemeral_creds.testing._vault_like import is_below

if TYPE_CHECKING:
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
        config: further settings in Vault's own language (HCL), such as another listener.
    """

    def __init__(self, binary: Path | None = None, *, config: str = "") -> None:
        found = binary or find_vault()
        if found is None:
            raise ConfigurationError(
                "no Vault was found: install vault or bao, name one in "
                "EPHEMERAL_CREDS_VAULT_BINARY, or use VaultEmulator"
            )
        self.binary = found
        self._config = config
        self._root_token = Secret(secrets.token_urlsafe(24))
        self._port = 0
        self._version = ""
        self._owner = os.getpid()
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

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
    def root_token(self) -> Secret:
        """A token that may do everything; random for each server."""
        return self._root_token

    @property
    def version(self) -> str:
        """For example ``Vault 1.21.1``; asks the binary."""
        if not self._version:
            said = subprocess.run(
                [self.binary, "version"],
                env=plain_environment(),
                capture_output=True,
                text=True,
                check=True,
                # Ctrl-C in a terminal is for whoever asks, as with the server itself.
                start_new_session=True,
            ).stdout
            match = re.match(r"(\w+) v([^\s,]+)", said)
            self._version = f"{match[1]} {match[2]}" if match else said.strip()
        return self._version

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, empty, and return once it answers; nothing happens if it runs.

        Raises:
            ConfigurationError: it would not start.
        """
        if self.running:
            return self
        self._port = self._port or free_port()
        atexit.register(self.close)
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
        self._end((signal.SIGINT, 5.0))

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._end()

    def close(self) -> None:
        """Stop it, and remove its folder. May be called again."""
        self.stop()
        self._remove()

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        self._signal(signal.SIGSTOP)
        # Its threads stop one by one, which takes its time on a busy machine: until the last of
        # them has, a request may still be answered.
        if self._process is not None and self.running and os.getpid() == self._owner:
            wait_until_stopped(self._process)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        self._call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Go on after `seal`, and return once requests are served again."""
        self._call("PUT", "sys/unseal", {"key": self._unseal_key().reveal()})
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
            config=self._config,
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
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="ephemeral-creds-vault-"))
        if config:
            self._file("config.hcl").write_text(config)
            options = (*options, "-config=config.hcl")
        with self._file("output").open("wb") as output:
            self._process = subprocess.Popen(
                [self.binary, "server", *options],
                cwd=self._home,
                env=plain_environment({"HOME": str(self._home), **variables}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._guard = Guard(self._process, self._home)

    def _wait_until_ready(self) -> None:
        # The root token's own page: health turns good before the token store does.
        self._wait_for_status("auth/token/lookup-self", 200)

    def _wait_for_status(self, path: str, *wanted: int) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT
        while self.running and time.monotonic() < give_up_at:
            try:
                if self._status(path) in wanted:
                    return
            except OSError:
                pass
            time.sleep(_POLL)
        raise ConfigurationError(f"{self.binary} did not start on {self.address}")

    def _keep_a_request_log(self) -> None:
        options = {"file_path": str(self._file("requests.log"))}
        self._call("PUT", "sys/audit/requests", {"type": "file", "options": options})

    def _status(self, path: str) -> int:
        return vault_request(self.address, "GET", path, token=self._root_token).status

    def _call(
        self, method: str, path: str, body: dict[str, object] | None = None
    ) -> dict[str, Any]:
        answer = vault_request(self.address, method, path, body, token=self._root_token)
        if answer.status >= 400:
            raise VaultCallFailed(f"{method} {path}: {answer.status} {answer.errors}")
        return answer.body

    def _file(self, name: str) -> Path:
        if self._home is None:
            raise RuntimeError("the server has not been started")
        return self._home / name

    def _output(self) -> str:
        return self._file("output").read_text(errors="replace")

    def _signal(self, signum: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None and os.getpid() == self._owner:
            process.send_signal(signum)

    def _end(self, *steps: tuple[signal.Signals, float]) -> None:
        if os.getpid() != self._owner:
            return
        process, self._process = self._process, None
        if process is not None:
            end_process(process, *steps)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()
        self._forget()

    def _forget(self) -> None:
        self._remove()

    def _remove(self) -> None:
        if os.getpid() != self._owner:
            return
        home, self._home = self._home, None
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
        atexit.unregister(self.close)
