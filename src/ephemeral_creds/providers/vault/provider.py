"""The common part of Vault's providers: tokens, one request at a time, closing and forking."""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.providers.url import FromURL
from ephemeral_creds.providers.vault.auth.base import AuthMethod
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.from_url import role_arguments
from ephemeral_creds.providers.vault.http.client import VaultClient
from ephemeral_creds.providers.vault.http.parse import FieldNames
from ephemeral_creds.providers.vault.inputs import validate_mount, validate_role
from ephemeral_creds.providers.vault.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import hvac

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.url import Location
    from ephemeral_creds.providers.vault.http.parse import RoleCredentials
    from ephemeral_creds.providers.vault.tokens import TokenSession

__all__ = ["VaultProvider"]

_T = TypeVar("_T")

logger = logging.getLogger("ephemeral_creds")


class VaultProvider(FromURL, CredentialProvider):
    """A provider that asks Vault for a role's credentials, under tokens of its own.

    Attributes:
        role: the name of the role, or the path of the secret.
        mount: where the secrets engine is mounted.
        config: how Vault is reached.
    """

    def __init__(
        self,
        role: str,
        *,
        auth: AuthMethod,
        mount: str = "database",
        fields: Mapping[str, str] | None = None,
        config: VaultConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.role = self._validate_name(role)
        self.mount = validate_mount(mount, "mount of a secrets engine")
        self._names = _field_names(fields)
        if not isinstance(auth, AuthMethod):
            # Not repeated: it may be a token.
            raise ConfigurationError(
                f"auth must be an auth method, such as KubernetesAuth('my-app'), not a "
                f"{type(auth).__name__}"
            )
        self._auth = auth
        self.config = VaultConfig.from_env() if config is None else config
        for weakness in self.config.weaknesses:
            logger.warning("%s", weakness)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._tokens = self._make_tokens()
        self._inherited: list[Tokens] = []
        self._report: Callable[[Event], None] | None = None

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        return role_arguments(location)

    @staticmethod
    def _validate_name(name: str) -> str:
        return validate_role(name)

    @property
    @abstractmethod
    def path(self) -> str:
        """The path that credentials are read from."""

    @property
    def requests_sent(self) -> int:
        """How many requests this process has sent to Vault."""
        return self._own_tokens().client.requests_sent

    def query(
        self,
        call: Callable[[hvac.Client], object],
        what: str,
        parse: Callable[[Mapping[str, object]], _T],
        *,
        login: bool = False,
        denied: str = "the token's policies do not allow it",
        missing: str = "check the address and the namespace",
    ) -> _T:
        """Read anything else than credentials under the provider's token, for diagnosis.

        Args:
            call: makes the request with one of hvac's methods; it must change nothing.
            what: what is asked for, for messages.
            parse: makes a value of the reply's body, or raises `Malformed`.
            login: log in first, and send the request to the namespace of logins.
            denied: what to do about a 403, for messages.
            missing: what to do if there is no such path.

        Raises:
            EphemeralCredsError: as for `fetch`.
        """
        with self._exclusive() as tokens:
            session = tokens.login() if login else tokens.obtain(None)[0]
            return tokens.client.ask(
                call,
                what,
                parse,
                token=session.token.value,
                namespace=self.config.login_namespace if login else self.config.namespace,
                denied=denied,
                missing=missing,
            )

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with a `ProviderRequest` for each request to Vault."""
        self._report = report

    def close(self) -> None:
        """Revoke the tokens that we logged in for, and close the sockets.

        Takes `VaultConfig.revoke_timeout` for waiting, and about as much for revoking, at most.
        Never raises; a token that cannot be revoked is logged and expires by itself. A child of the
        process that logged in revokes nothing.
        """
        tokens = self._own_tokens()
        if tokens.closed:
            return
        # Also read by the thread whose request is in flight, as soon as that ends.
        tokens.closed = True
        locked = tokens.lock.acquire(timeout=self.config.revoke_timeout)
        if not locked:
            logger.warning("%s: closed while a request hangs", self.description)
            # The hanging request is using the client, so the tokens are revoked over another one.
            tokens.client = VaultClient(self.config, self._clock)
        try:
            tokens.close()
            tokens.client.close()
        finally:
            if locked:
                tokens.lock.release()
        self._report_requests(tokens)

    def __repr__(self) -> str:
        # Tools that report an error of the constructor may print a half-made object.
        made = hasattr(self, "_tokens")
        return f"<{type(self).__name__} {self.description if made else 'not made'}>"

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[Tokens]:
        """Hold the tokens of this process for a few requests.

        Raises:
            ConfigurationError: the provider is closed.
        """
        tokens = self._own_tokens()
        try:
            with tokens.lock:
                if tokens.closed:
                    raise self._closed_error()
                try:
                    yield tokens
                finally:
                    if tokens.closed:
                        tokens.client.close()
        finally:
            self._report_requests(tokens)

    def _report_requests(self, tokens: Tokens) -> None:
        """Report the requests, now that no lock is held."""
        for event in tokens.client.take_events():
            if self._report is not None:
                self._report(event)

    def _request(
        self,
        tokens: Tokens,
        need: float | None,
        read: Callable[[Tokens, TokenSession], _T],
    ) -> tuple[TokenSession, float, _T]:
        """Read credentials under a token, after one fresh login if the first token is refused.

        The token has to live for `need` seconds; ``None`` if unknown. Returns its session, the
        instant of the request, and the result of `read`.
        """
        session, fresh = tokens.obtain(need)
        requested_at = self._clock.now()
        try:
            return session, requested_at, read(tokens, session)
        except AccessDenied as denied:
            if fresh:
                raise
            refusal = denied
        session = self._login_after(tokens, session, refusal)
        requested_at = self._clock.now()
        return session, requested_at, read(tokens, session)

    def _login_after(
        self, tokens: Tokens, session: TokenSession, refusal: AccessDenied
    ) -> TokenSession:
        """Log in because a token was refused: it is dead, or its policies changed since."""
        alive = tokens.is_alive(session)
        try:
            return tokens.login()
        except (AccessDenied, ConfigurationError):
            if not alive:
                raise
        # The token lives, so it lacks a policy: that is the news, not the failed login.
        raise refusal from None

    def _credentials(
        self, tokens: Tokens, reply: RoleCredentials
    ) -> Credentials | EphemeralCredsError:
        """Return the reply's credentials, or why they cannot be used."""
        if tokens.closed:
            return self._closed_error()
        if reply.username is not None and reply.password is not None:
            return Credentials(reply.username, reply.password)
        came = ", ".join(reply.fields) or "nothing"
        if {"rsa_private_key", "client_certificate"} & set(reply.fields):
            return ConfigurationError(
                f"{self.description} gave {came}, not a password: set the role's credential_type "
                "to 'password'"
            )
        names = self._names
        return MalformedResponse(
            f"{self.description} gave {came} instead of {names.username} and {names.password}: "
            "check that the mount is a database engine's; another engine's names are set with "
            "fields"
        )

    def _closed_error(self) -> ConfigurationError:
        return ConfigurationError(f"{self.description}: the provider is closed; make a new one")

    def _own_tokens(self) -> Tokens:
        """Return the tokens of this process: a fork's child shares no socket, lock or lease."""
        if self._tokens.inherited:
            # Kept alive: to finalize its sockets takes locks that another thread of the parent
            # may have held at the fork, and that are never released here.
            self._inherited.append(self._tokens)
            self._tokens = self._make_tokens()
        return self._tokens

    def _make_tokens(self) -> Tokens:
        return Tokens(VaultClient(self.config, self._clock), self._auth, self._clock)


def _field_names(fields: Mapping[str, str] | None) -> FieldNames:
    names = dict(fields or {})
    unknown = sorted(names.keys() - {"username", "password"})
    if unknown:
        raise ConfigurationError(
            f"fields={{{unknown[0]!r}: …}}: its keys are 'username' and 'password', its values "
            "the engine's names for them"
        )
    if not all(names.values()):
        raise ConfigurationError("fields: the name of a field cannot be empty")
    return FieldNames(**names)
