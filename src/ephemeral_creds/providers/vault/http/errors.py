"""Translates every failed request into one of the library's errors.

Everything here returns errors as values. They are raised elsewhere, from a frame that holds no
secret, so that neither a traceback nor a chain of causes leads to one. Of an exception only its
type and the words of the operating system or TLS are used: its text may hold a proxy's password, a
header or a body.

Statuses: https://developer.hashicorp.com/vault/api-docs#http-status-codes. Vault tells its lease
errors apart by text only, hence the substrings below.
"""

from __future__ import annotations

import enum
import http.client
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
import urllib3.exceptions

from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault.http.adapters import causes, never_arrived
from ephemeral_creds.providers.vault.http.reply import ReplyTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.reply import Reply

__all__ = [
    "Kind", "Operation", "from_exception", "from_reply", "is_in_doubt", "malformed", "shorten",
]  # fmt: skip

# Enough for Vault's longest usual complaint; a proxy's or a plugin's essay is cut.
_MAX_SAID = 300
# Characters of a lease id's last part: enough to find it in Vault, too few to revoke it.
_SHOWN = 6
_NOT_VAULT = "the reply is not Vault's: check the address and any proxy in between"
_IN_DOUBT = "Vault may have carried out the request"

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
_BAD_LOGIN_SETUP = ("invalid role name", "missing ", "unsupported", "could not load")
# Of a token whose nbf or iat is in the future: its issuer's clock is ahead of Vault's.
_EARLY = ("token not yet valid", "token not valid yet", "token issued in the future")
_NO_REPLY = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
# OpenSSL's words for bytes that are not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
# OpenSSL's numbers (X509_V_ERR_…) for failures with a remedy of their own.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64


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
    if status == 400:
        return _bad_request(operation, message, said)
    if status in {401, 403}:
        return AccessDenied(f"{message}; {operation.denied}", status=status)
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
    """Return the reply's own words, on one line and without secrets."""
    errors = None if reply.body is None else reply.body.get("errors")
    if reply.body is None:
        said = reply.text or reply.kind
    elif isinstance(errors, list) and errors:
        said = "; ".join(str(error) for error in errors)
    else:
        said = "no reason given"
    # Vault spreads lists of errors over lines with bullets.
    said = " ".join(said.split())
    for secret in operation.secrets:
        if secret:
            said = said.replace(secret.reveal(), "**********")
    if operation.lease_id:
        said = said.replace(operation.lease_id, shorten(operation.lease_id))
    return said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}…"


# --- No reply -----------------------------------------------------------------------------------


def is_in_doubt(error: Exception) -> bool:
    """Whether the request may have arrived, so that it may have been carried out."""
    sent = isinstance(error, requests.RequestException | ReplyTooLarge | OSError)
    return sent and not never_arrived(error)


def from_exception(operation: Operation, error: Exception) -> EphemeralCredsError:
    """Return the error for a request that ended without a reply."""
    intro = operation.intro
    chain = list(causes(error))
    if isinstance(error, ReplyTooLarge):
        return MalformedResponse(
            f"{intro} sent {error}, where Vault's replies have a few hundred bytes; {_NOT_VAULT}; "
            f"{_IN_DOUBT}",
            status=error.status,
        )
    not_sent = never_arrived(error)
    if not_sent and (problem := _tls_problem(chain)) is not None:
        return ConfigurationError(f"{intro} {problem}")
    if isinstance(error, requests.ConnectTimeout):
        return ProviderUnavailable(f"{intro} did not accept a connection in time")
    if any(isinstance(cause, _NO_REPLY) for cause in chain):
        return ProviderUnavailable(f"{intro} did not answer in time; {_IN_DOUBT}")
    if any(isinstance(cause, http.client.IncompleteRead) for cause in chain):
        return MalformedResponse(f"{intro} broke off in the middle of its reply; {_IN_DOUBT}")
    if any(_is_not_http(cause) for cause in chain):
        return MalformedResponse(
            f"{intro} does not speak HTTP; check host and port of the address (VAULT_ADDR)"
        )
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return MalformedResponse(f"{intro} sent a body that cannot be decoded; {_IN_DOUBT}")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        said = next((c.strerror for c in chain if isinstance(c, OSError) and c.strerror), None)
        doubt = "" if not_sent else f"; {_IN_DOUBT}"
        if operation.address.startswith("http:") and not not_sent:
            doubt = f"; if it speaks TLS, the address begins with https://{doubt}"
        return ProviderUnavailable(
            f"{intro} cannot be reached: {said or type(error).__name__}; check the address "
            f"(VAULT_ADDR) and that Vault runs there{doubt}"
        )
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return ConfigurationError(
            f"{intro} could not be asked: {error.strerror or error}; check the files that "
            "verify and client_cert name"
        )
    if isinstance(error, ValueError):
        # requests' InvalidURL and InvalidHeader, and a UnicodeError for what no header can hold.
        return ConfigurationError(
            f"{intro} could not be asked: {type(error).__name__}; check the address, the "
            "namespace and the token for characters that HTTP cannot carry"
        )
    return ProviderUnavailable(f"{intro} could not be asked: {type(error).__name__}")


def _tls_problem(chain: Sequence[BaseException]) -> str | None:
    """Return what is wrong with TLS or its files; ``None`` if nothing is."""
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = getattr(cause, "verify_message", "") or cause.strerror
            remedy = _certificate_remedy(getattr(cause, "verify_code", 0))
            return f"has a certificate that cannot be trusted: {said}; {remedy}"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in _NOT_TLS:
            return (
                f"does not speak TLS ({cause.reason}); if it is meant to speak plain HTTP, the "
                "address begins with http://"
            )
        if isinstance(cause, ssl.SSLError) and _is_of_a_file(cause):
            return (
                "could not be asked: a certificate file cannot be loaded "
                f"({cause.reason or 'it is not PEM'}); check "
                "that VAULT_CACERT, or verify in VaultConfig, names PEM certificates, and "
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY, or client_cert, a certificate and its key"
            )
    return None


def _is_of_a_file(error: ssl.SSLError) -> bool:
    """Whether OpenSSL could not load a file, which it does before it connects."""
    return error.library in {"PEM", "X509", "ASN1"} or "PEM lib" in str(error)


def _certificate_remedy(code: int) -> str:
    if code in {_WRONG_NAME, _WRONG_ADDRESS}:
        return (
            "use a host name that the certificate has, or have one issued for this address "
            "(VAULT_TLS_SERVER_NAME sets the name to expect)"
        )
    if code == _NOT_YET_VALID:
        return "check this machine's clock: the certificate is not valid yet"
    if code == _EXPIRED:
        return "renew Vault's certificate, or check this machine's clock"
    return "set VAULT_CACERT, or verify in VaultConfig, to the CA that issued it"


def _is_not_http(cause: BaseException) -> bool:
    # RemoteDisconnected is one by class, but means an end without any reply.
    return isinstance(
        cause, http.client.BadStatusLine | http.client.LineTooLong
    ) and not isinstance(cause, ConnectionError)
