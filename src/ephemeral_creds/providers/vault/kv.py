"""Key-value secrets: credentials that a person or a program writes to Vault."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ephemeral_creds._values import Credentials, Grant, Lease
from ephemeral_creds.events import SourceRecovered, SourceUnusable
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.fields import SecretFields
from ephemeral_creds.providers.vault.from_url import secret_arguments
from ephemeral_creds.providers.vault.inputs import validate_secret_path
from ephemeral_creds.providers.vault.provider import VaultProvider
from ephemeral_creds.providers.vault.static import READ_AGAIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.url import Location
    from ephemeral_creds.providers.vault.auth.base import AuthMethod
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.http.parse import StoredSecret
    from ephemeral_creds.providers.vault.tokens import Tokens, TokenSession

__all__ = ["VaultKVProvider"]

# A secret that asks to be read each second, by mistake, would be read so by a whole fleet.
_LEAST_TTL = 5.0


class VaultKVProvider(VaultProvider):
    """User name and password in a secret of Vault's key-value engine.

    A `fetch` reads the secret, whole, and changes nothing. It has no deadline: what is in the
    secret works for as long as PostgreSQL accepts it, so it also works while Vault is unreachable.
    Vault tells no one of a change, so the secret is read again every five minutes, or as often as
    it says itself, and at once when PostgreSQL refuses a login. Another user name is another
    generation, to which pools move before they leave the old one; another password of the same
    user is used for new connections, and open ones stay. If PostgreSQL refuses that one, the
    version before it is used, as far as the engine has any, until there is a newer one.

    May be used from several threads, one request at a time. See
    https://developer.hashicorp.com/vault/docs/secrets/kv.

    Args:
        path: the path of the secret below the mount, without the ``data/`` of Vault's API.
        auth: how to log in to Vault.
        mount: where the engine is mounted.
        fields: the secret's names for ``username`` and ``password``, or for ``url``, a connection
            URI; the usual ones are found by themselves.
        username: the user name, if the secret has only a password. A secret with another user
            name is refused.
        version: a version of the secret to stay at; ``None`` means the latest.
        engine_version: 2, or 1 for an engine without versions. 1 reads ``MOUNT/PATH`` as it is,
            which other engines answer as well.
        poll_interval: seconds between two reads; ``None`` means the ``ttl`` in the custom metadata
            of the secret (with `engine_version` 1 a field of it), 5 at least, or 300 without one.
        config: how to reach Vault; ``None`` means `VaultConfig.from_env`.
        clock: where to read time from; ``None`` means the system's.

    Raises:
        ConfigurationError: an argument cannot be right.
    """

    mints: ClassVar[bool] = False
    URL_SCHEME: ClassVar[str] = "vault-kv"

    def __init__(
        self,
        path: str,
        *,
        auth: AuthMethod,
        mount: str = "secret",
        fields: Mapping[str, str] | None = None,
        username: str | None = None,
        version: int | None = None,
        engine_version: Literal[1, 2] = 2,
        poll_interval: float | None = None,
        config: VaultConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        if engine_version not in (1, 2):
            raise ConfigurationError(f"engine_version must be 1 or 2, not {engine_version!r}")
        if version is not None and (engine_version == 1 or version < 1):
            raise ConfigurationError(
                f"version={version!r}: it is 1 or more, and only an engine of version 2 has any"
            )
        if poll_interval is not None and not (poll_interval > 0 and math.isfinite(poll_interval)):
            raise ConfigurationError(f"poll_interval has to be > 0 seconds, not {poll_interval!r}")
        self._fields = SecretFields(fields, username=username)
        self._version = version
        self._engine_version = engine_version
        self._poll_interval = poll_interval
        self._newest: StoredSecret | None = None
        # The versions that PostgreSQL refuses, the latest among them.
        self._refused: frozenset[int] = frozenset()
        self._uses_previous = False
        super().__init__(path, auth=auth, mount=mount, config=config, clock=clock)

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        return secret_arguments(location)

    @staticmethod
    def _validate_name(name: str) -> str:
        return validate_secret_path(name)

    @property
    def description(self) -> str:
        """Path and address, for messages."""
        version = "" if self._version is None else f" version {self._version}"
        return f"Vault secret {self.role!r}{version} ({self.path} at {self.config.address})"

    @property
    def path(self) -> str:
        """The path that the secret is read from."""
        return f"{self.mount}/{'data/' if self._engine_version == 2 else ''}{self.role}"

    @property
    def engine_version(self) -> int:
        """The version of the engine, as it was given."""
        return self._engine_version

    def fetch(self) -> Grant:
        """Read the secret.

        Raises:
            ConfigurationError: there is no such mount, secret or version, the version is deleted
                or destroyed, the engine has another version, or the secret has no usable
                credentials.
            AccessDenied: refused, also after a fresh login.
            ProviderUnavailable: Vault does not answer, or answered an older version than it did
                before.
            MalformedResponse: the reply is not that of a key-value engine.
        """
        with self._exclusive() as tokens:
            session, requested_at, secret = self._request(tokens, None, self._read)
            self._check_age(secret)
            if tokens.closed:
                raise self._closed_error()
            credentials = value_of(secret.credentials)
            self._newest = secret
            used = secret
            if secret.version in self._refused:
                used = self._previous_to(tokens, session, secret) or secret
                credentials = value_of(used.credentials)
            else:
                self._refused = frozenset()
            again = self._poll_interval
            if again is None:
                again = READ_AGAIN if secret.ttl == math.inf else max(secret.ttl, _LEAST_TTL)
            lease = Lease(
                requested_at,
                # Who writes it may change the password of the same user, and does not say when.
                rotates_in=math.inf,
                ask_again_in=min(again, session.renewal_due_in(requested_at)),
            )
            grant = Grant(credentials, lease, origin=used.version or None)
        self._report_use(secret.version, uses_previous=used is not secret)
        return grant

    def fetch_instead(self, refused: Grant) -> Grant:
        """Read the secret, and the version before the latest if `refused` is that.

        Raises what `fetch` does.
        """
        if isinstance(refused.origin, int) and self._version is None:
            self._refused |= {refused.origin}
        return self.fetch()

    def _previous_to(
        self, tokens: Tokens, session: TokenSession, latest: StoredSecret
    ) -> StoredSecret | None:
        """Return the version before the latest, if PostgreSQL may accept it."""
        try:
            found = tokens.client.read_secret(
                session.token.value, self.mount, self.role, self._fields, version=latest.version - 1
            )
        except EphemeralCredsError:
            return None  # it is deleted, or Vault keeps one version only
        usable = isinstance(found.credentials, Credentials) and found.version not in self._refused
        return found if usable and found.credentials != latest.credentials else None

    def _report_use(self, latest: int, *, uses_previous: bool) -> None:
        """Report if the use of the version before the latest begins or ends."""
        if uses_previous != self._uses_previous and self._report is not None:
            self._report(
                SourceUnusable(
                    error=f"{self.description}: PostgreSQL refuses version {latest}, so that the "
                    "one before it is used: write a version with the right password"
                )
                if uses_previous
                else SourceRecovered()
            )
        self._uses_previous = uses_previous

    def _read(self, tokens: Tokens, session: TokenSession) -> StoredSecret:
        token, client = session.token.value, tokens.client
        try:
            if self._engine_version == 1:
                return client.read_fields(token, self.mount, self.role, self._fields)
            return client.read_secret(
                token, self.mount, self.role, self._fields, version=self._version
            )
        except (AccessDenied, ConfigurationError) as error:
            refusal = error
        # Vault's reply to the path of the other version says nothing of it.
        try:
            found = client.read_engine_version(token, self.mount)
        except EphemeralCredsError:
            raise refusal from None
        if found in (0, self._engine_version):
            raise refusal
        raise ConfigurationError(
            f"{self.description}: the mount {self.mount!r} is a key-value engine of version "
            f"{found}: set engine_version={found}"
        )

    def _check_age(self, secret: StoredSecret) -> None:
        """Refuse a version that is older than what was read: of a node that lags behind."""
        newest = self._newest
        if (
            newest is not None
            and secret.version < newest.version
            # A secret that is deleted for good and written again starts from 1, later.
            and secret.created_at < newest.created_at
        ):
            raise ProviderUnavailable(
                f"{self.description}: version {secret.version} was answered after version "
                f"{newest.version}, by a node that lags behind; it is asked again"
            )
