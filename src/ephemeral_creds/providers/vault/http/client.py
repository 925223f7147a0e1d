"""The few requests to Vault that this library makes: typed, bounded and never repeated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import LeaseLost
from ephemeral_creds.providers.vault.http import parse as replies
from ephemeral_creds.providers.vault.http.errors import Kind, Operation, shortened
from ephemeral_creds.providers.vault.http.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import hvac

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.config import VaultConfig
    from ephemeral_creds.providers.vault.http.audit import Journal
    from ephemeral_creds.providers.vault.http.parse import (
        FieldNames,
        MintedCredentials,
        Renewal,
        StaticCredentials,
        TokenInfo,
    )

__all__ = ["VaultClient"]

_T = TypeVar("_T")
_NO_TOKEN = Secret("")
_NO_AGENT = (
    "no token was sent, and nothing in between added one: the address has to be that of a Vault "
    "Agent or Vault Proxy with use_auto_auth_token in its api_proxy stanza"
)
_DEAD_TOKEN = "the token is expired or revoked, or its policies lack the path"  # noqa: S105


class VaultClient:
    """A connection to one Vault server.

    Every method sends one request, and follows one redirect to a configured address at most. It
    goes under the token that the method is given. They raise nothing but errors of ours:
    `ProviderUnavailable`, `MalformedResponse`, `ConfigurationError`, `AccessDenied`, and
    `LeaseLost` where it says so.
    None of them retries: after a timeout nobody knows whether a role was created.

    Safe to use from several threads, one request at a time. Not to be used across a fork.

    Args:
        config: where Vault is and how to reach it.
        clock: where the durations in its journal are read from; ``None`` means the system's.
    """

    def __init__(self, config: VaultConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._exchange = Exchange(config, clock or SystemClock())

    @property
    def address(self) -> str:
        """Vault's address, for messages."""
        return self._config.address

    @property
    def shows_certificate(self) -> bool:
        """Whether connections show a client certificate."""
        return self._config.shows_certificate

    @property
    def sent(self) -> int:
        """How many requests have gone out."""
        return self._exchange.transport.sent

    @property
    def journal(self) -> Journal:
        """What it has asked for."""
        return self._exchange.journal

    def close(self) -> None:
        """Close the sockets. A later request opens new ones."""
        self._exchange.transport.close()

    def login(
        self,
        call: Callable[[hvac.Client], object],
        what: str,
        *,
        hint: str,
        secrets: tuple[Secret, ...],
        role: str = "",
    ) -> TokenInfo:
        """Log in; no token is sent along.

        Args:
            call: makes the request with one of hvac's auth methods, ``use_token=False``. It runs
                where exceptions do not get out, so it is the place to reveal secrets.
            what: what is asked for, for messages: ``an AppRole login at auth/approle``.
            hint: what to check where Vault refuses.
            secrets: what the call reveals, to be scrubbed from what Vault says.
            role: the role or the user that is logged in as, for events.

        Raises:
            AccessDenied: Vault does not accept who we say we are.
            ConfigurationError: no such auth method or role.
        """
        operation = self._operation(
            Kind.LOGIN, what, hint, missing=hint, secrets=secrets, role=role
        )
        return self._exchange.run(
            operation,
            lambda: call(self._exchange.hvac),
            replies.parse_login,
            self._config.login_namespace,
        )

    def unwrap_secret_id(self, wrapping_token: Secret) -> Secret:
        """Open a wrapped AppRole secret id; this works once (``sys/wrapping/unwrap``).

        See https://developer.hashicorp.com/vault/docs/concepts/response-wrapping.

        Raises:
            AccessDenied: the wrapping token was opened before, or has expired.
        """
        operation = self._operation(
            Kind.TOKEN,
            "the secret id in a wrapping token",
            "the wrapping token has expired, or has been opened already: if not by this process, "
            "then find out by whom, and have the secret id revoked; a new one is needed",
            missing="wrap a secret id with vault write -wrap-ttl=… -f …/role/ROLE/secret-id",
            secrets=(wrapping_token,),
            name="unwrap",
        )
        return self._exchange.run(
            operation,
            self._exchange.hvac.sys.unwrap,
            replies.parse_secret_id,
            self._config.login_namespace,
            wrapping_token,
        )

    def lookup_self(self, token: Secret) -> TokenInfo:
        """Ask what a token is (``auth/token/lookup-self``).

        See https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self.

        Raises:
            AccessDenied: the token is dead, or its policies lack even this.
        """
        return self._exchange.run(
            self._token_operation("lookup-token", "a look at the token", token),
            self._exchange.hvac.auth.token.lookup_self,
            replies.parse_lookup,
            self._config.login_namespace,
            token,
        )

    def renew_self(self, token: Secret, increment: float) -> Renewal:
        """Ask for `increment` more seconds for a token (``auth/token/renew-self``).

        See https://developer.hashicorp.com/vault/api-docs/auth/token#renew-a-token-self.

        Raises:
            AccessDenied: the token is dead, cannot be renewed (400), or its policies lack this.
        """
        return self._exchange.run(
            self._token_operation("renew-token", "more time for the token", token),
            lambda: self._exchange.hvac.auth.token.renew_self(increment=_whole(increment)),
            replies.parse_token_renewal,
            self._config.login_namespace,
            token,
        )

    def revoke_self(self, token: Secret) -> None:
        """Revoke a token and with it every lease made under it (``auth/token/revoke-self``).

        See https://developer.hashicorp.com/vault/api-docs/auth/token#revoke-a-token-self.
        """
        self._exchange.run(
            self._token_operation("revoke-token", "the end of the token", token),
            self._exchange.hvac.auth.token.revoke_self,
            replies.parse_nothing,
            self._config.login_namespace,
            token,
            read_timeout=self._config.revoke_timeout,
        )

    def read_creds(
        self, token: Secret, mount: str, role: str, names: FieldNames
    ) -> MintedCredentials:
        """Mint credentials: each call makes Vault create a role in the database.

        See https://developer.hashicorp.com/vault/api-docs/secret/databases#generate-credentials.

        Raises:
            ConfigurationError: no such mount or role, or one that the connection does not allow.
            AccessDenied: the token is dead or its policies lack the path.
        """
        path = f"{mount}/creds/{role}"
        operation = self._operation(
            Kind.MINT,
            f"credentials at {path}",
            _policy(path, "read"),
            missing=f"check that there is a database engine at {mount!r} with a role {role!r}",
            secrets=(token,),
            mount=mount,
            role=role,
        )
        return self._exchange.run(
            operation,
            lambda: self._exchange.hvac.secrets.database.generate_credentials(
                role, mount_point=mount
            ),
            lambda body: replies.parse_creds(body, names),
            self._config.namespace,
            token,
        )

    def read_static_creds(
        self, token: Secret, mount: str, role: str, names: FieldNames
    ) -> StaticCredentials:
        """Read the password of a role that stays; this changes nothing.

        See https://developer.hashicorp.com/vault/api-docs/secret/databases#get-static-credentials.

        Raises:
            ConfigurationError: no such mount or role.
            AccessDenied: the token is dead or its policies lack the path.
        """
        path = f"{mount}/static-creds/{role}"
        operation = self._operation(
            Kind.READ,
            f"the password at {path}",
            _policy(path, "read"),
            missing=f"check that there is a database engine at {mount!r} with a static role "
            f"{role!r}",
            secrets=(token,),
            mount=mount,
            role=role,
        )
        return self._exchange.run(
            operation,
            lambda: self._exchange.hvac.secrets.database.get_static_credentials(
                role, mount_point=mount
            ),
            lambda body: replies.parse_static_creds(body, names),
            self._config.namespace,
            token,
        )

    def renew_lease(
        self, token: Secret, lease_id: str, increment: float, *, mount: str = "", role: str = ""
    ) -> Renewal:
        """Ask for `increment` seconds from now for a lease (``sys/leases/renew``).

        `mount` and `role` say what it is a lease of, for events.

        See https://developer.hashicorp.com/vault/api-docs/system/leases#renew-lease.

        Raises:
            LeaseLost: the lease is gone or at its end.
            AccessDenied: the token is dead or its policies lack the path.
        """
        operation = self._operation(
            Kind.RENEW,
            f"more time for lease {shortened(lease_id)}",
            _policy("sys/leases/renew", "update"),
            secrets=(token,),
            mount=mount,
            role=role,
            lease_id=lease_id,
        )
        return self._exchange.run(
            operation,
            lambda: self._exchange.hvac.sys.renew_lease(lease_id, increment=_whole(increment)),
            replies.parse_lease_renewal,
            self._config.namespace,
            token,
        )

    def revoke_lease(
        self, token: Secret, lease_id: str, *, mount: str = "", role: str = ""
    ) -> None:
        """Give a lease back and wait for Vault to drop the role (``sys/leases/revoke``).

        A lease that Vault does not know is given back already. `mount` and `role` say what it is
        a lease of, for events.

        See https://developer.hashicorp.com/vault/api-docs/system/leases#revoke-lease.

        Raises:
            AccessDenied: the policies lack the path, as Vault's default policy does.
        """
        operation = self._operation(
            Kind.REVOKE,
            f"the end of lease {shortened(lease_id)}",
            "Vault's default policy does not allow it; " + _policy("sys/leases/revoke", "update"),
            secrets=(token,),
            mount=mount,
            role=role,
            lease_id=lease_id,
        )
        try:
            self._exchange.run(
                operation,
                lambda: self._exchange.hvac.sys.revoke_lease(lease_id),
                replies.parse_nothing,
                self._config.namespace,
                token,
                read_timeout=self._config.revoke_timeout,
            )
        except LeaseLost:
            return

    def ask(
        self,
        call: Callable[[hvac.Client], object],
        what: str,
        parse: Callable[[Mapping[str, object]], _T],
        *,
        token: Secret = _NO_TOKEN,
        namespace: str | None = None,
        denied: str = "the token's policies do not allow it",
        missing: str = "check the address and the namespace",
    ) -> _T:
        """Ask for anything else that changes nothing.

        Args:
            call: makes the request with one of hvac's methods.
            what: what is asked for, for messages.
            parse: makes a value of the answer's body, or raises `Malformed`.
            token: what it goes under; none for what needs none.
            namespace: where it goes.
            denied: what to do about a 403.
            missing: what to do where there is no such path.
        """
        return self._exchange.run(
            self._operation(Kind.READ, what, denied, missing=missing, secrets=(token,)),
            lambda: call(self._exchange.hvac),
            parse,
            namespace,
            token,
        )

    def _operation(
        self,
        kind: Kind,
        what: str,
        denied: str,
        *,
        missing: str = "check the address and the namespace",
        secrets: tuple[Secret, ...],
        name: str = "",
        mount: str = "",
        role: str = "",
        lease_id: str = "",
    ) -> Operation:
        return Operation(
            kind,
            what,
            self._config.address,
            denied,
            missing,
            secrets,
            name=name,
            mount=mount,
            role=role,
            lease_id=lease_id,
        )

    def _token_operation(self, name: str, what: str, token: Secret) -> Operation:
        denied = _DEAD_TOKEN if token else _NO_AGENT
        return self._operation(
            Kind.TOKEN, what, denied, secrets=(token,), name=name, mount="auth/token"
        )


def _whole(seconds: float) -> int:
    """Return what Vault takes for a duration: whole seconds, and never the 0 that means default."""
    return max(1, math.ceil(seconds))


def _policy(path: str, capability: str) -> str:
    return f'the token\'s policies need: path "{path}" {{ capabilities = ["{capability}"] }}'
