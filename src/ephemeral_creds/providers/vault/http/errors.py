"""Translates every failed request into one of the library's errors.

Everything here returns errors as values. They are raised elsewhere, from a frame that holds no
secret, so that neither a traceback nor a chain of causes leads to one.

Statuses: https://developer.hashicorp.com/vault/api-docs#http-status-codes. Vault tells its lease
errors apart by text only, hence the substrings below.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.http import failures, rest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.http.reply import Reply

__all__ = [
    "Kind", "Operation", "from_exception", "from_reply", "malformed", "shorten",
]  # fmt: skip

# Characters of a lease id's last part: enough to find it in Vault, too few to revoke it.
_SHOWN = 6
_NOT_VAULT = "the reply is not Vault's: check the address and any proxy in between"
_VAULT = failures.Service(
    name="Vault",
    address="the address (VAULT_ADDR)",
    expected_name="VAULT_TLS_SERVER_NAME sets the name to expect",
    trust="set VAULT_CACERT, or verify in VaultConfig, to",
    files="that VAULT_CACERT, or verify in VaultConfig, names PEM certificates, and "
    "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY, or client_cert, a certificate and its key",
    values="the address, the namespace and the token",
    in_doubt="Vault may have carried out the request",
)

# Vault answers 400 to every failed renewal. These say that the lease will not come back; any
# other text, first of all "failed to renew entry", is trouble behind Vault that may pass.
_LEASE_LOST = (
    "lease not found",
    "lease expired",
    "lease is expired",
    "lease is not renewable",
    "past the max TTL",
    "no valid associated token",
)
# PostgreSQL's error about the role's statements, in Vault's words.
_SQLSTATE = re.compile(r"\(SQLSTATE (42|22|0[AL]|2B)")
# Two statements changed one entry of PostgreSQL's catalogue at once: mints that all GRANT one role.
_CONCURRENT = re.compile(r"\(SQLSTATE XX000\)|tuple concurrently updated")
# A key-value engine that was just mounted as version 2, or changed to it. It answers 400.
_UPGRADING = "Upgrading from non-versioned to versioned data"
_BAD_LOGIN_SETUP = ("invalid role name", "missing ", "unsupported", "could not load")
# Of a token whose nbf or iat is in the future: its issuer's clock is ahead of Vault's.
_EARLY = ("token not yet valid", "token not valid yet", "token issued in the future")


class Kind(enum.Enum):
    """The kind of an operation; the same status means different things."""

    LOGIN = enum.auto()
    TOKEN = enum.auto()
    MINT = enum.auto()
    RENEW = enum.auto()
    REVOKE = enum.auto()
    READ = enum.auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to Vault, in words for messages and events.

    Attributes:
        kind: its kind.
        what: what is asked for, to follow "asked for": ``the credentials at database/creds/app``.
        denied: what to do about a 403.
        missing: what to do if there is no such path or role.
        secrets: what must not show up in a message even if Vault repeats it.
        address: the node that was asked.
        name: its name in events; empty means the kind's.
        mount: the mount that it goes to, for events.
        role: its role, for events.
        lease_id: its lease; shown in part only.
        explain: says what the body of a 404 without an error means; empty if it does not tell.
    """

    kind: Kind
    what: str
    denied: str
    missing: str = "check the address and the namespace"
    secrets: tuple[Secret, ...] = ()
    address: str = ""
    name: str = ""
    mount: str = ""
    role: str = ""
    lease_id: str = ""
    explain: Callable[[Mapping[str, object]], str] | None = None

    @property
    def intro(self) -> str:
        """The beginning of every message."""
        return f"Vault at {self.address}, asked for {self.what},"


def shorten(lease_id: str) -> str:
    """Return a lease id for messages and events: too little of it to renew or revoke it."""
    path, slash, name = lease_id.rpartition("/")
    return f"{path}{slash}{name[:_SHOWN]}…" if len(name) > _SHOWN else lease_id


# --- A reply ------------------------------------------------------------------------------------


def from_reply(operation: Operation, reply: Reply) -> EphemeralCredsError:
    """Return the error for a reply whose status is not a success."""
    status = reply.status
    answered = f"{operation.intro} answered HTTP {status}"
    if reply.redirect:
        return ProviderUnavailable(
            f"{answered}: a redirect to {reply.redirect}, which is not followed: set the address "
            "to the active node, add that node to the addresses, or let the standby forward "
            "requests",
            status=status,
        )
    said = _said(operation, reply)
    message = f"{answered}: {said}"
    if status in {412, 429, 472, 473, 474, 530} or status >= 500:
        if status == 500 and "is not an allowed role" in said:
            return ConfigurationError(
                f"{message}; add the role to allowed_roles of its database connection"
            )
        if status == 500 and operation.kind is Kind.MINT and _SQLSTATE.search(said):
            return ConfigurationError(
                f"{message}; correct the role's creation_statements, or the rights of the database "
                "connection's own user"
            )
        return ProviderUnavailable(
            f"{message}{_advice(operation, status, said)}",
            status=status,
            retry_after=reply.retry_after,
        )
    if reply.body is None and "HTTPS server" in said:
        return MalformedResponse(f"{message}; the address begins with https://", status=status)
    if reply.body is None:
        return MalformedResponse(f"{message}; {_NOT_VAULT}", status=status)
    if operation.kind is Kind.LOGIN and any(text in said for text in _EARLY):
        return ProviderUnavailable(
            f"{message}; it becomes valid in a moment: synchronise the clocks of Vault and of the "
            "token's issuer, or raise clock_skew_leeway of the auth role",
            status=status,
        )
    if status == 400 and _UPGRADING in said:
        return ProviderUnavailable(message, status=status)
    if status == 400:
        return _bad_request(operation, message, said)
    if status in {401, 403}:
        return AccessDenied(f"{message}; {operation.denied}", status=status)
    if status == 404 and operation.explain and (why := operation.explain(reply.body)):
        return ConfigurationError(f"{answered}: {why}")
    if status in {404, 405}:
        return ConfigurationError(f"{message}; {operation.missing}")
    return MalformedResponse(f"{message}; Vault does not use this status here", status=status)


def _advice(operation: Operation, status: int, said: str) -> str:
    if status == 503:
        return "; unseal it, or wait if it is starting"
    if status == 429:
        return "; raise its quota, or send fewer requests"
    if status == 500 and _CONCURRENT.search(said):
        return (
            "; another statement changed the same entry of PostgreSQL's catalogue at that instant, "
            "and the next attempt succeeds. If it happens often: GRANT one role to the new one "
            "(IN ROLE) instead of rights on many objects"
        )
    if status == 500 and operation.kind is Kind.MINT:
        return "; check that the database connection of this mount reaches PostgreSQL"
    return ""


def _bad_request(operation: Operation, message: str, said: str) -> EphemeralCredsError:
    match operation.kind:
        case Kind.MINT | Kind.READ:
            return ConfigurationError(f"{message}; {operation.missing}")
        case Kind.LOGIN if any(text in said for text in _BAD_LOGIN_SETUP):
            return ConfigurationError(f"{message}; {operation.missing}")
        case Kind.LOGIN | Kind.TOKEN:
            return AccessDenied(f"{message}; {operation.denied}", status=400)
        case Kind.RENEW | Kind.REVOKE:
            if any(text in said for text in _LEASE_LOST):
                return LeaseLost(f"{message}; only new credentials help", status=400)
            return ProviderUnavailable(
                f"{message}; the lease still exists, the trouble is behind Vault", status=400
            )


def malformed(operation: Operation, status: int, lacks: str) -> MalformedResponse:
    """Return the error for a success whose body lacks something."""
    remedy = "check that the address is Vault's and the mount of the right kind"
    if operation.name == "unwrap":
        remedy = operation.missing
    return MalformedResponse(
        f"{operation.intro} answered HTTP {status} with {lacks}; {remedy}", status=status
    )


def _said(operation: Operation, reply: Reply) -> str:
    """Return the reply's own words."""
    errors = None if reply.body is None else reply.body.get("errors")
    if reply.body is None:
        text = reply.text or reply.kind
    else:
        text = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
    if operation.lease_id:
        text = text.replace(operation.lease_id, shorten(operation.lease_id))
    return rest.said(text, operation.secrets)


# --- No reply -----------------------------------------------------------------------------------


def from_exception(operation: Operation, error: Exception) -> EphemeralCredsError:
    """Return the error for a request that ended without a reply."""
    tls = not operation.address.startswith("http:")
    return failures.from_exception(_VAULT, operation.intro, error, tls=tls)
