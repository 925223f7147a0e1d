"""The emulator's outside: it starts and stops, can be paused, and goes wrong on request."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Self

from ephemeral_creds._values import Secret
from ephemeral_creds.testing._emulator._core import Core
from ephemeral_creds.testing._emulator._faults import KIND, Faults
from ephemeral_creds.testing._emulator._listener import Listener, RequestRecord
from ephemeral_creds.testing._emulator._tls import TLS
from ephemeral_creds.testing._emulator._wire import Answer, Request
from ephemeral_creds.testing._process import free_port
from ephemeral_creds.testing._vault_like import is_below, no_tls_listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ephemeral_creds.testing._emulator._faults import Fault

__all__ = ["VaultEmulator"]

_HOST = "127.0.0.1"
_LOOK = 0.05  # seconds between two looks at the clock, which a test may move
_LET_GO = 10.0  # seconds to wait for the threads that serve connections


class VaultEmulator:
    """Speaks the part of Vault's HTTP API that the library uses; its PostgreSQL roles are real.

    It runs in threads of this process, forgets everything when it stops, and passes the same
    contract tests as a real Vault. Use it where there is no real one, where an answer has to go
    wrong at one exact request (`faults`), or where a test wants to own Vault's clock.

    Args:
        clock: Vault's wall clock: Unix time in seconds. PostgreSQL compares ``VALID UNTIL`` with
            its own clock, so shift the time rather than invent one.
        tls_certificate: paths of a certificate and its key, with which it also listens at
            `tls_address`; needs pyOpenSSL. A client may show a certificate of its own.

    Attributes:
        faults: the script of what goes wrong.
        requests: every request so far, in the order in which they arrived.
    """

    version = "emulator"

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        tls_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.faults = Faults()
        self.requests: list[RequestRecord] = []
        self._noting = threading.Lock()
        self._clock = clock
        self._tls = None if tls_certificate is None else TLS(*tls_certificate)
        self._port = self._tls_port = 0
        self._root_token = Secret(f"hvs.{secrets.token_urlsafe(24)}")
        self._unseal_key = secrets.token_hex(32)
        self._core: Core | None = None
        self._listeners: list[Listener] = []
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._running = threading.Event()  # cleared while paused
        self._running.set()

    def __repr__(self) -> str:
        return f"<VaultEmulator {self.address}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

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
        if self._tls is None:
            raise no_tls_listener("VaultEmulator")
        return f"https://127.0.0.1:{self._tls_port}"

    @property
    def root_token(self) -> Secret:
        """A token that may do everything; random for each emulator."""
        return self._root_token

    def start(self) -> Self:
        """Start, empty, and return once it answers; nothing happens if it runs."""
        if self._listeners:
            return self
        self._port = self._port or free_port()
        self._core = core = Core(
            self._clock, self._root_token.reveal(), self._unseal_key, self.version
        )
        self._stopped.clear()
        self.faults.open()
        self._listeners = [Listener((_HOST, self._port), self)]
        if self._tls is not None:
            self._tls_port = self._tls_port or free_port()
            self._listeners.append(Listener((_HOST, self._tls_port), self, self._tls))
        self._threads = [
            threading.Thread(
                target=listener.serve_forever,
                kwargs={"poll_interval": _LOOK},
                name="vault-emulator",
                daemon=True,
            )
            for listener in self._listeners
        ]
        self._threads.append(
            threading.Thread(
                target=self._expire, args=(core,), name="vault-emulator-expiry", daemon=True
            )
        )
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop, and forget everything but the address; nothing happens if it does not run.

        As with a real server, roles in PostgreSQL stay behind.
        """
        listeners, self._listeners = self._listeners, []
        if not listeners:
            return
        self._stopped.set()
        self.resume()
        self.faults.shut()
        for listener in listeners:
            listener.shutdown()
            listener.server_close()
            listener.hang_up()
        for thread in self._threads:
            thread.join(_LET_GO)
        self._threads.clear()

    def kill(self) -> None:
        """End at once; for this server the same as `stop`."""
        self.stop()

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        self._state().sealed = True

    def unseal(self) -> None:
        """Go on after `seal`."""
        self._state().sealed = False

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it since the start.

        An answer that a fault swallowed counts: the role exists.
        """
        return sum(is_below(minted, path) for minted in self._state().minted)

    def tick(self) -> None:
        """End what is due by the clock now, rather than within the next 50 ms."""
        self._state().expire()

    def count(self, method: str, path: str) -> int:
        """Return how many requests were made with `method` to exactly `path`."""
        return sum((r.method, r.path) == (method, path) for r in self.requests)

    def note(self, record: RequestRecord, place: int | None = None) -> int:
        """Add a record, or put the final one in its place; return its place."""
        with self._noting:
            if place is None:
                self.requests.append(record)
                return len(self.requests) - 1
            self.requests[place] = record
            return place

    def serve(self, method: str, request: Request) -> tuple[Answer, Fault | None]:
        """Answer a request, faults applied; called from the threads that serve connections."""
        answer = Answer(0)
        self._running.wait()
        if self._stopped.is_set():
            return answer, None
        fault = self.faults.take(method, request.path)
        if fault is None or fault.handled:
            answer = self._state().handle(request)
        if fault is not None:
            if fault.kind is KIND.HANG:
                self.faults.hold()
            elif fault.kind is KIND.DELAY:
                self.faults.hold(fault.delay)
                if not fault.handled and not self._stopped.is_set():
                    answer = self._state().handle(request)
        self._running.wait()
        return answer, fault

    def _state(self) -> Core:
        if self._core is None:
            raise RuntimeError("the emulator has not been started")
        return self._core

    def _expire(self, core: Core) -> None:
        while not self._stopped.wait(_LOOK):
            if self._running.is_set():
                core.expire()
