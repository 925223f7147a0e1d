"""One request to Vault and its outcome: no foreign exception and no secret leaves this module."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import hvac

from ephemeral_creds._values import Secret
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.http.failures import is_in_doubt
from ephemeral_creds.providers.http.reply import Reply
from ephemeral_creds.providers.vault.http import errors
from ephemeral_creds.providers.vault.http.audit import AuditTrail
from ephemeral_creds.providers.vault.http.parse import Malformed
from ephemeral_creds.providers.vault.http.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.exceptions import EphemeralCredsError
    from ephemeral_creds.providers.vault.config import VaultConfig

__all__ = ["NO_TOKEN", "Exchange"]

_T = TypeVar("_T")
NO_TOKEN = Secret("")


class Exchange:
    """Runs calls of hvac, one at a time, and translates every outcome.

    Attributes:
        transport: sends the requests.
        audit: records them.
    """

    def __init__(self, config: VaultConfig, clock: Clock) -> None:
        self._config = config
        self.audit = AuditTrail(clock)
        self.transport = transport = Transport(config, clock)
        # A ready adapter: one that hvac made would take a client certificate from the environment.
        adapter = cast("type[Transport]", lambda **_: transport)
        self._hvac = hvac.Client(url=config.address, token="", adapter=adapter)
        # hvac keeps token and namespace as plain attributes, and requests promises no thread
        # safety for a session.
        self._lock = threading.Lock()

    def run(
        self,
        operation: errors.Operation,
        call: Callable[[hvac.Client], object],
        parse: Callable[[Mapping[str, object]], _T],
        token: Secret = NO_TOKEN,
        *,
        namespace: str | None = None,
        read_timeout: float | None = None,
    ) -> _T:
        """Make one call and return its parsed reply.

        Args:
            operation: what it is, for messages and events.
            call: makes one request. It may reveal secrets: no exception of its own gets out.
            parse: makes a value of the reply's body, or raises `Malformed`.
            token: the token to send; none for a login.
            namespace: where it goes; ``None`` means the configured one for its kind.
            read_timeout: seconds; ``None`` for the configured ones.

        Raises:
            EphemeralCredsError: as `errors` decides. Raised from this frame, which holds no
                secret, and with no other exception as its context.
        """
        operation = replace(operation, secrets=(*operation.secrets, token))
        with self._lock:
            if namespace is None:
                is_login = operation.kind in {errors.Kind.LOGIN, errors.Kind.TOKEN}
                config = self._config
                namespace = config.login_namespace if is_login else config.namespace
            self.transport.namespace = namespace or None
            self.transport.timeout = (
                self._config.connect_timeout,
                self._config.read_timeout if read_timeout is None else read_timeout,
            )
            sent_at = self.audit.now()
            outcome, status, in_doubt = self._attempt(operation, call, parse, token)
            operation = replace(operation, address=self._node())
            self.audit.record(
                operation, token, outcome, status=status, sent_at=sent_at, in_doubt=in_doubt
            )
        return value_of(outcome)

    def _attempt(
        self,
        operation: errors.Operation,
        call: Callable[[hvac.Client], object],
        parse: Callable[[Mapping[str, object]], _T],
        token: Secret,
    ) -> tuple[_T | EphemeralCredsError, int | None, bool]:
        """Return a call's value or error, its status, and whether it may have been done.

        Raises nothing.
        """
        status: int | None = None
        try:
            self.transport.token = token.reveal()
            reply = call(self._hvac)
            operation = self._located(operation)
            if not isinstance(reply, Reply):
                return errors.malformed(operation, 0, "something that is not HTTP"), None, True
            status = reply.status
            if not 200 <= status < 300:
                return errors.from_reply(operation, reply), status, False
            if reply.body is None:
                return errors.malformed(operation, status, reply.kind), status, True
            return parse(reply.body), status, False
        except Malformed as error:
            return errors.malformed(operation, status or 0, str(error)), status, True
        # Whatever it is, its frames and attributes hold the token.
        except Exception as error:  # noqa: BLE001
            found = errors.from_exception(self._located(operation), error)
            return found, status, is_in_doubt(error)
        finally:
            self.transport.token = ""

    def _located(self, operation: errors.Operation) -> errors.Operation:
        """Return the operation with the node that was asked and those that were tried before."""
        where = self._node()
        if self.transport.passed_over:
            where += f" ({', '.join(self.transport.passed_over)} could not take it)"
        return replace(operation, address=where)

    def _node(self) -> str:
        namespace = self.transport.namespace
        return self.transport.asked + (f" (namespace {namespace!r})" if namespace else "")
