"""The boundary that no foreign exception and no secret crosses."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar, cast

import hvac

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.vault import _errors, _replies
from ephemeral_creds.providers.vault._transport import Answer, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds.providers.vault._errors import Operation
    from ephemeral_creds.providers.vault.config import VaultConfig

__all__ = ["Exchange"]

_T = TypeVar("_T")
_NO_TOKEN = Secret("")


class Exchange:
    """Runs calls of hvac, one at a time, and turns all that can come of them into ours.

    Attributes:
        hvac: the client whose methods make the calls; it holds a token only during one.
        transport: what it sends them through.
    """

    def __init__(self, config: VaultConfig) -> None:
        self._config = config
        self.transport = transport = Transport(config)
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
            EphemeralCredsError: as `_errors` decides. Raised from this frame, which holds no
                secret, and with no other exception as its context.
        """
        with self._lock:
            self.transport.namespace = namespace or None
            self.transport.timeout = (
                self._config.connect_timeout,
                self._config.read_timeout if read_timeout is None else read_timeout,
            )
            outcome = self._attempt(operation, call, parse, token)
        if isinstance(outcome, EphemeralCredsError):
            raise outcome
        return outcome

    def _attempt(
        self,
        operation: Operation,
        call: Callable[[], object],
        parse: Callable[[Mapping[str, object]], _T],
        token: Secret,
    ) -> _T | EphemeralCredsError:
        """Return what came of a call, be it an error; nothing is raised here."""
        status = 0
        try:
            self.transport.token = token.reveal()
            answer = call()
            if not isinstance(answer, Answer):
                return _errors.malformed(operation, status, "something that is not HTTP")
            status = answer.status
            if not 200 <= status < 300:
                return _errors.from_answer(operation, answer)
            if answer.body is None:
                return _errors.malformed(operation, status, answer.kind)
            return parse(answer.body)
        except _replies.Malformed as error:
            return _errors.malformed(operation, status, str(error))
        # Whatever it is, its frames and attributes hold the token.
        except Exception as error:  # noqa: BLE001
            return _errors.from_exception(operation, error)
        finally:
            self.transport.token = ""
