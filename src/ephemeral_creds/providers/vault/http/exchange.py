"""The boundary that no foreign exception and no secret crosses."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import hvac

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.vault.http import errors
from ephemeral_creds.providers.vault.http.audit import Journal
from ephemeral_creds.providers.vault.http.parse import Malformed
from ephemeral_creds.providers.vault.http.reply import Reply
from ephemeral_creds.providers.vault.http.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.http.errors import Operation

__all__ = ["Exchange"]

_T = TypeVar("_T")
_NO_TOKEN = Secret("")


class Exchange:
    """Runs calls of hvac, one at a time, and turns all that can come of them into ours.

    Attributes:
        hvac: the client whose methods make the calls; it holds a token only during one.
        transport: what it sends them through.
        journal: where each request is written down.
    """

    def __init__(self, config: VaultConfig, clock: Clock) -> None:
        self._config = config
        self.journal = Journal(clock)
        self.transport = transport = Transport(config, clock)
        # A ready adapter: one that hvac made would take a client certificate from the environment.
        adapter = cast("type[Transport]", lambda **_: transport)
        self.hvac = hvac.Client(url=config.address, token="", adapter=adapter)
        # hvac keeps token and namespace as plain attributes, and requests promises no thread
        # safety for a session.
        self._lock = threading.Lock()

    def run(
        self,
        operation: Operation,
        call: Callable[[], object],
        parse: Callable[[Mapping[str, object]], _T],
        namespace: str | None,
        token: Secret = _NO_TOKEN,
        *,
        read_timeout: float | None = None,
    ) -> _T:
        """Make one call and return its parsed answer.

        Args:
            operation: what it is, for messages.
            call: makes one request through `hvac`. May reveal secrets: nothing raised in it gets
                out.
            parse: makes a value of the answer's body, or raises `Malformed`.
            namespace: where it goes.
            token: what it goes under; none for a login.
            read_timeout: seconds; ``None`` for the configured ones.

        Raises:
            EphemeralCredsError: as `errors` decides. Raised from this frame, which holds no
                secret, and with no other exception as its context.
        """
        with self._lock:
            self.transport.namespace = namespace or None
            self.transport.timeout = (
                self._config.connect_timeout,
                self._config.read_timeout if read_timeout is None else read_timeout,
            )
            begun = self.journal.now()
            outcome, status, lost = self._attempt(operation, call, parse, token)
            operation = replace(operation, address=self._asked())
            if operation.kind is errors.Kind.LOGIN:
                # Which of hvac's methods is called, only the auth method knows.
                operation = replace(operation, mount=self.transport.mount)
            self.journal.note(operation, token, outcome, status=status, begun=begun, lost=lost)
        if isinstance(outcome, EphemeralCredsError):
            raise outcome
        return outcome

    def _attempt(
        self,
        operation: Operation,
        call: Callable[[], object],
        parse: Callable[[Mapping[str, object]], _T],
        token: Secret,
    ) -> tuple[_T | EphemeralCredsError, int | None, bool]:
        """Return what came of a call, be it an error, its status, and whether it is in doubt.

        Nothing is raised here.
        """
        status: int | None = None
        try:
            self.transport.token = token.reveal()
            answer = call()
            asked = self._placed(operation)
            if not isinstance(answer, Reply):
                return errors.malformed(asked, 0, "something that is not HTTP"), None, True
            status = answer.status
            if not 200 <= status < 300:
                return errors.from_answer(asked, answer), status, False
            if answer.body is None:
                return errors.malformed(asked, status, answer.kind), status, True
            return parse(answer.body), status, False
        except Malformed as error:
            return errors.malformed(self._placed(operation), status or 0, str(error)), status, True
        # Whatever it is, its frames and attributes hold the token.
        except Exception as error:  # noqa: BLE001
            found = errors.from_exception(self._placed(operation), error)
            return found, status, errors.in_doubt(error)
        finally:
            self.transport.token = ""

    def _placed(self, operation: Operation) -> Operation:
        """Return an operation for messages, with the node that was asked and those before it."""
        where = self._asked()
        if self.transport.passed_over:
            where += f" ({', '.join(self.transport.passed_over)} could not take it)"
        return replace(operation, address=where)

    def _asked(self) -> str:
        namespace = self.transport.namespace
        return self.transport.asked + (f" (namespace {namespace!r})" if namespace else "")
