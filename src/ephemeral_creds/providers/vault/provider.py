"""What Vault's providers have in common: one set of tokens, one lock, closing and forking."""

from __future__ import annotations

import contextlib
import logging
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
from ephemeral_creds.providers.vault.from_url import arguments_from
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
    from ephemeral_creds.providers.vault.http.parse import MintedCredentials, StaticCredentials
    from ephemeral_creds.providers.vault.tokens import TokenSession

__all__ = ["VaultProvider"]

_T = TypeVar("_T")

logger = logging.getLogger("ephemeral_creds")


class VaultProvider(FromURL, CredentialProvider):
    """A provider that asks Vault for a role's credentials, under tokens of its own.

    Args:
        role: the name of the role.
        mount: where the secrets engine is mounted.
        fields: what the engine calls ``username`` and ``password``, where not so.
        auth: how to log in.
        config: how to reach Vault; ``None`` means `VaultConfig.from_env`.
        clock: where to read time from; ``None`` means the system's.
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
        self._role = validate_role(role)
        self._mount = validate_mount(mount, "mount of a secrets engine")
        self._names = _checked_fields(fields)
        if not isinstance(auth, AuthMethod):
            # Not repeated: it may be a token.
            raise ConfigurationError(
                f"auth must be a way to log in, such as KubernetesAuth('my-app'), not a "
                f"{type(auth).__name__}"
            )
        self._auth = auth
        self._config = VaultConfig.from_env() if config is None else config
        for weakness in self._config.weaknesses:
            logger.warning("%s", weakness)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._tokens = self._make_tokens()
        self._inherited: list[Tokens] = []
        self._report: Callable[[Event], None] | None = None

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        return arguments_from(location)

    @property
    def requests_sent(self) -> int:
        """How many requests this process has sent to Vault."""
        return self._own_tokens().client.requests_sent

    @property
    def role(self) -> str:
        """The name of the role."""
        return self._role

    @property
    def mount(self) -> str:
        """Where the secrets engine is mounted."""
        return self._mount

    @property
    def config(self) -> VaultConfig:
        """How Vault is reached."""
        return self._config

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
        """Read something else than credentials under the provider's token, for diagnosis.

        Args:
            call: makes the request with one of hvac's methods; it must change nothing.
            what: what is asked for, for messages.
            parse: makes a value of the answer's body, or raises `Malformed`.
            login: log in first, and ask in the namespace of logins.
            denied: what to do about a 403, for messages.
            missing: what to do where there is no such path.

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
                namespace=self._config.login_namespace if login else self._config.namespace,
                denied=denied,
                missing=missing,
            )

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with a `ProviderRequest` for each request to Vault."""
        self._report = report

    def close(self) -> None:
        """Revoke the tokens that we logged in for, and close the sockets.

        Takes `VaultConfig.revoke_timeout` for waiting, and about as much for revoking, at most.
        Never raises; what cannot be given back is logged and expires by itself. A child of the
        process that logged in revokes nothing.
        """
        tokens = self._own_tokens()
        if tokens.closed:
            return
        # Also read by the thread whose request is in flight, as soon as that ends.
        tokens.closed = True
        if tokens.lock.acquire(timeout=self._config.revoke_timeout):
            try:
                tokens.close()
                tokens.client.close()
            finally:
                tokens.lock.release()
            self._tell(tokens)
            return
        logger.warning("%s: closed while a request hangs", self.description)
        # The client is in use by what hangs, so the tokens are given back over another one.
        tokens.client = VaultClient(self._config, self._clock)
        tokens.close()
        tokens.client.close()
        self._tell(tokens)

    def __repr__(self) -> str:
        # What reports an error of the constructor may look at what it left behind.
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
            self._tell(tokens)

    def _tell(self, tokens: Tokens) -> None:
        """Report what has been asked, now that no lock is held."""
        for event in tokens.client.take_events():
            if self._report is not None:
                self._report(event)

    def _ask(
        self,
        tokens: Tokens,
        need: float | None,
        read: Callable[[Tokens, TokenSession], _T],
    ) -> tuple[TokenSession, float, _T]:
        """Read something under a token, after one fresh login where the first is refused.

        Args:
            tokens: the tokens, held.
            need: seconds that the token has to live on; ``None`` where nobody knows.
            read: makes the request.

        Returns:
            The token that it was read under, the instant of the request, and what came.
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
        """Log in because a token was refused: it is dead, or its policies are of yesterday."""
        alive = tokens.is_alive(session)
        try:
            return tokens.login()
        except (AccessDenied, ConfigurationError):
            if not alive:
                raise
        # The token lives, so what it lacks is a policy; that the login failed too is second.
        raise refusal from None

    def _usable(
        self, tokens: Tokens, reply: MintedCredentials | StaticCredentials
    ) -> Credentials | EphemeralCredsError:
        """Return what to log in with, or why what came is of no use."""
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
            f"{self.description} gave {came} where a {names.username} and a {names.password} "
            "should be: check that the mount is a database engine's; another engine's names are "
            "set with fields"
        )

    def _closed_error(self) -> ConfigurationError:
        return ConfigurationError(f"{self.description}: the provider is closed; make a new one")

    def _own_tokens(self) -> Tokens:
        """Return the tokens of this process: a fork's child shares no socket, lock or lease."""
        if self._tokens.inherited:
            # Kept alive: to finalize its sockets takes locks that another thread of the parent
            # may have held at the fork, and that nobody will ever release here.
            self._inherited.append(self._tokens)
            self._tokens = self._make_tokens()
        return self._tokens

    def _make_tokens(self) -> Tokens:
        return Tokens(VaultClient(self._config, self._clock), self._auth, self._clock)


def _checked_fields(fields: Mapping[str, str] | None) -> FieldNames:
    names = dict(fields or {})
    unknown = sorted(names.keys() - {"username", "password"})
    if unknown:
        raise ConfigurationError(
            f"fields={{{unknown[0]!r}: …}}: its keys are 'username' and 'password', its values "
            "what the engine calls them"
        )
    if not all(names.values()):
        raise ConfigurationError("fields: the name of a field cannot be empty")
    return FieldNames(**names)
