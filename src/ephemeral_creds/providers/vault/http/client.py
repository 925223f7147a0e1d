"""The requests to Vault that this library makes, typed, with time limits and without retries."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import LeaseLost
from ephemeral_creds.providers.vault.http import parse
from ephemeral_creds.providers.vault.http.errors import Kind, Operation, shorten
from ephemeral_creds.providers.vault.http.exchange import NO_TOKEN, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import hvac

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.events import ProviderRequest
    from ephemeral_creds.providers.fields import SecretFields
    from ephemeral_creds.providers.vault.config import VaultConfig

__all__ = ["VaultClient"]

_T = TypeVar("_T")
_NO_AGENT = (
    "no token was sent and none was added on the way: the address has to be that of a Vault "
    "Agent or Vault Proxy with use_auto_auth_token in its api_proxy stanza"
)
_DEAD_TOKEN = "the token is expired or revoked, or its policies lack the path"  # noqa: S105


class VaultClient:
    """A connection to one Vault server.

    Every method sends one request under the token that it is given, and follows one redirect to a
    configured address at most. None of them retries: after a timeout it is unknown whether a role
    was created. They raise `ProviderUnavailable`, `MalformedResponse`, `ConfigurationError` (no
    such mount, role or path), `AccessDenied` (the token is dead, or its policies lack the path),
    and `LeaseLost` for a lease that is gone or expired.

    Safe to use from several threads, one request at a time. Not to be used across a fork.

    Args:
        config: where Vault is and how to reach it.
        clock: gives the durations in the audit trail; ``None`` means the system's.
    """

    def __init__(self, config: VaultConfig, clock: Clock | None = None) -> None:
        self.config = config
        self._exchange = Exchange(config, clock or SystemClock())

    @property
    def requests_sent(self) -> int:
        """How many requests have been sent."""
        return self._exchange.transport.requests_sent

    def take_events(self) -> list[ProviderRequest]:
        """Return the events of the requests since the last call."""
        return self._exchange.audit.take()

    def close(self) -> None:
        """Close the sockets. A later request opens new ones."""
        self._exchange.transport.close()

    def login(
        self,
        mount: str,
        path: str,
        fields: Mapping[str, str | Secret],
        *,
        what: str,
        check: str,
        role: str = "",
    ) -> parse.TokenInfo:
        """Log in, with no token.

        Args:
            mount: the path of the auth method: ``auth/approle``.
            path: below the mount, percent-encoded.
            fields: the body of the request.
            what: what is asked for, for messages: ``an AppRole login at auth/approle``.
            check: what to check if Vault refuses.
            role: the role or the user that is logged in as, for events.
        """

        def call(vault: hvac.Client) -> object:
            body = {
                name: value.reveal() if isinstance(value, Secret) else value
                for name, value in fields.items()
            }
            return vault.adapter.login(f"/v1/{quote(mount)}/{path}", use_token=False, json=body)

        secrets = tuple(value for value in fields.values() if isinstance(value, Secret))
        operation = Operation(
            Kind.LOGIN, what, check, check, secrets=secrets, mount=mount, role=role
        )
        return self._exchange.run(operation, call, parse.login)

    def unwrap_secret_id(self, wrapping_token: Secret) -> Secret:
        """Unwrap an AppRole secret id, which works once (``sys/wrapping/unwrap``).

        See https://developer.hashicorp.com/vault/docs/concepts/response-wrapping.
        """
        operation = Operation(
            Kind.TOKEN,
            "the secret id in a wrapping token",
            "the wrapping token has expired, or has been unwrapped already: if not by this "
            "process, find out by whom, and revoke the secret id; a new wrapping token is needed",
            "wrap a secret id with vault write -wrap-ttl=… -f …/role/ROLE/secret-id",
            name="unwrap",
        )
        return self._exchange.run(
            operation, lambda vault: vault.sys.unwrap(), parse.secret_id, wrapping_token
        )

    # https://developer.hashicorp.com/vault/api-docs/auth/token

    def lookup_self(self, token: Secret) -> parse.TokenInfo:
        """Look a token up (``auth/token/lookup-self``)."""
        return self._exchange.run(
            _token_operation("lookup-token", "a lookup of the token", token),
            lambda vault: vault.auth.token.lookup_self(),
            parse.lookup,
            token,
        )

    def renew_self(self, token: Secret, increment: float) -> parse.Renewal:
        """Ask for `increment` more seconds for a token (``auth/token/renew-self``)."""
        return self._exchange.run(
            _token_operation("renew-token", "a renewal of the token", token),
            lambda vault: vault.auth.token.renew_self(increment=_whole(increment)),
            parse.token_renewal,
            token,
        )

    def revoke_self(self, token: Secret) -> None:
        """Revoke a token and with it every lease made under it (``auth/token/revoke-self``)."""
        self._exchange.run(
            _token_operation("revoke-token", "a revocation of the token", token),
            lambda vault: vault.auth.token.revoke_self(),
            parse.nothing,
            token,
            read_timeout=self.config.revoke_timeout,
        )

    # https://developer.hashicorp.com/vault/api-docs/secret/databases

    def read_creds(
        self, token: Secret, mount: str, role: str, names: parse.FieldNames
    ) -> parse.RoleCredentials:
        """Mint credentials: each call makes Vault create a role in the database."""
        path = f"{mount}/creds/{role}"
        operation = Operation(
            Kind.MINT,
            f"credentials at {path}",
            _policy(path, "read"),
            f"check that there is a database engine at {mount!r} with a role {role!r}",
            mount=mount,
            role=role,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.secrets.database.generate_credentials(role, mount_point=mount),
            lambda body: parse.minted_credentials(body, names),
            token,
        )

    def read_static_creds(
        self, token: Secret, mount: str, role: str, names: parse.FieldNames
    ) -> parse.RoleCredentials:
        """Read the password of a static role; this changes nothing."""
        path = f"{mount}/static-creds/{role}"
        operation = Operation(
            Kind.READ,
            f"the password at {path}",
            _policy(path, "read"),
            f"check that there is a database engine at {mount!r} with a static role {role!r}",
            mount=mount,
            role=role,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.secrets.database.get_static_credentials(role, mount_point=mount),
            lambda body: parse.static_credentials(body, names),
            token,
        )

    # https://developer.hashicorp.com/vault/api-docs/secret/kv

    def read_secret(
        self,
        token: Secret,
        mount: str,
        path: str,
        fields: SecretFields,
        *,
        version: int | None = None,
    ) -> parse.StoredSecret:
        """Read a secret of a key-value engine of version 2; ``None`` means the latest version."""
        api_path = f"{mount}/data/{path}"
        which = "the secret" if version is None else f"version {version} of the secret"
        command = f"vault kv get -mount={mount} {path.removeprefix('data/')}"
        missing = f"check that there is such a secret and version: {command}"
        if path.startswith("data/"):
            missing += "; the path is given without the 'data/' of Vault's API"
        operation = Operation(
            Kind.READ,
            f"{which} at {api_path}",
            _policy(api_path, "read"),
            missing,
            mount=mount,
            role=path,
            explain=parse.absent_version,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                path, version, mount_point=mount, raise_on_deleted_version=False
            ),
            lambda body: parse.stored_secret(body, fields, api_path, versions=True),
            token,
        )

    def read_fields(
        self, token: Secret, mount: str, path: str, fields: SecretFields
    ) -> parse.StoredSecret:
        """Read a secret of a key-value engine of version 1, or what another engine has there."""
        api_path = f"{mount}/{path}"
        operation = Operation(
            Kind.READ,
            f"the secret at {api_path}",
            _policy(api_path, "read"),
            "check that there is such a secret",
            mount=mount,
            role=path,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.secrets.kv.v1.read_secret(path, mount_point=mount),
            lambda body: parse.stored_secret(body, fields, api_path, versions=False),
            token,
        )

    def read_engine_version(self, token: Secret, mount: str) -> int:
        """Return the version of the key-value engine at `mount`, 0 if it is of another kind.

        The vault command asks the same before ``vault kv get``; every token may that has any right
        below the mount.
        """
        operation = Operation(
            Kind.READ,
            f"the kind of engine at {mount}",
            "the token has no right below this mount",
            mount=mount,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.adapter.get(f"/v1/sys/internal/ui/mounts/{quote(mount)}"),
            parse.engine_version,
            token,
        )

    # https://developer.hashicorp.com/vault/api-docs/system/leases; `mount` and `role` are those of
    # the lease, for events.

    def renew_lease(
        self, token: Secret, lease_id: str, increment: float, *, mount: str = "", role: str = ""
    ) -> parse.Renewal:
        """Ask for `increment` seconds from now for a lease (``sys/leases/renew``)."""
        operation = Operation(
            Kind.RENEW,
            f"a renewal of lease {shorten(lease_id)}",
            _policy("sys/leases/renew", "update"),
            mount=mount,
            role=role,
            lease_id=lease_id,
        )
        return self._exchange.run(
            operation,
            lambda vault: vault.sys.renew_lease(lease_id, increment=_whole(increment)),
            parse.lease_renewal,
            token,
        )

    def revoke_lease(
        self, token: Secret, lease_id: str, *, mount: str = "", role: str = ""
    ) -> None:
        """Revoke a lease and wait for Vault to drop the role (``sys/leases/revoke``).

        A lease that Vault does not know counts as revoked.
        """
        operation = Operation(
            Kind.REVOKE,
            f"a revocation of lease {shorten(lease_id)}",
            "Vault's default policy does not allow it; " + _policy("sys/leases/revoke", "update"),
            mount=mount,
            role=role,
            lease_id=lease_id,
        )
        with contextlib.suppress(LeaseLost):
            self._exchange.run(
                operation,
                lambda vault: vault.sys.revoke_lease(lease_id),
                parse.nothing,
                token,
                read_timeout=self.config.revoke_timeout,
            )

    def ask(
        self,
        call: Callable[[hvac.Client], object],
        what: str,
        parse: Callable[[Mapping[str, object]], _T],
        *,
        token: Secret = NO_TOKEN,
        namespace: str | None = None,
        denied: str = "the token's policies do not allow it",
        missing: str = "check the address and the namespace",
    ) -> _T:
        """Make any other request that changes nothing.

        Args:
            call: makes the request with one of hvac's methods.
            what: what is asked for, for messages.
            parse: makes a value of the reply's body, or raises `Malformed`.
            token: the token to send; none by default.
            namespace: where the request goes; the root namespace by default.
            denied: what to do about a 403.
            missing: what to do if there is no such path.
        """
        operation = Operation(Kind.READ, what, denied, missing)
        return self._exchange.run(operation, call, parse, token, namespace=namespace or "")


def _token_operation(name: str, what: str, token: Secret) -> Operation:
    denied = _DEAD_TOKEN if token else _NO_AGENT
    return Operation(Kind.TOKEN, what, denied, name=name, mount="auth/token")


def _whole(seconds: float) -> int:
    """Return a duration as Vault takes it: whole seconds, never 0, which would mean the default."""
    return max(1, math.ceil(seconds))


def _policy(path: str, capability: str) -> str:
    return f'the token\'s policies need: path "{path}" {{ capabilities = ["{capability}"] }}'
