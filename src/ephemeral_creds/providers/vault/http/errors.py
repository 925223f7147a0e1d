"""The one place where an answer that is no success becomes an error of ours.

Everything here returns errors as values. They are raised elsewhere, from a frame that holds no
secret, so that neither a traceback nor a chain of causes leads to one.

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
    from collections.abc import Iterable, Sequence

    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.vault.http.reply import Reply

__all__ = [
    "Kind",
    "Operation",
    "from_answer",
    "from_exception",
    "in_doubt",
    "malformed",
    "shortened",
]

# Enough for Vault's longest usual complaint; a proxy's or a plugin's essay is cut.
_MAX_SAID = 300
# Of a lease id's last part, which whoever knows it all may revoke: enough to find it in Vault.
_SHOWN = 6

# Vault answers 400 to every failed renewal. These say that the lease will not come back; any
# other text, first of all "failed to renew entry", is trouble behind Vault that may pass.
_DEATHS = (
    "lease not found",
    "lease expired",
    "lease is expired",
    "lease is not renewable",
    "past the max TTL",
    "no valid associated token",
)
# What PostgreSQL said of the role's statements; Vault passes it on in its own words.
_SQLSTATE = re.compile(r"\(SQLSTATE (42|22|0[AL]|2B)")
# Two statements changed one entry of PostgreSQL's catalogue at once: mints that all GRANT one role.
_CONCURRENT = re.compile(r"\(SQLSTATE XX000\)|tuple concurrently updated")
_BAD_LOGIN_SETUP = ("invalid role name", "missing ", "unsupported", "could not load")
# Of a token whose nbf or iat has not come yet: its issuer's clock is ahead of Vault's.
_EARLY = ("token not yet valid", "token not valid yet", "token issued in the future")


class Kind(enum.Enum):
    """What an operation is about; the same status means different things."""

    LOGIN = enum.auto()
    TOKEN = enum.auto()
    MINT = enum.auto()
    RENEW = enum.auto()
    REVOKE = enum.auto()
    READ = enum.auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing asked of Vault, in words for messages.

    Attributes:
        kind: what it is about.
        what: what we want, to follow "Vault refuses": ``the credentials at database/creds/app``.
        address: the node of Vault that was asked.
        denied: what to do about a 403.
        missing: what to do where there is no such path or role.
        secrets: what must not show up in a message even if Vault repeats it.
        name: what events call it; empty means like its kind.
        mount: the mount that it goes to, for events.
        role: the role that it is about, for events.
        lease_id: the lease that it is about; shown in part only.
    """

    kind: Kind
    what: str
    address: str
    denied: str
    missing: str = "check the address, the namespace and the mount"
    secrets: tuple[Secret, ...] = ()
    name: str = ""
    mount: str = ""
    role: str = ""
    lease_id: str = ""


def from_answer(operation: Operation, answer: Reply) -> EphemeralCredsError:
    """Return the error for an answer whose status is not a success."""
    status = answer.status
    asked = f"Vault at {operation.address}, asked for {operation.what}, answered HTTP {status}"
    if answer.redirect:
        return ProviderUnavailable(
            f"{asked}: a redirect to {answer.redirect}, which gets no token from here; point the "
            "address of Vault at the active node, add that node to the addresses, or let the "
            "standby forward requests",
            status=status,
        )
    said = _said(operation, answer)
    message = f"{asked}: {said}"
    if status in {412, 429, 472, 473, 474, 530} or status >= 500:
        if status == 500 and "is not an allowed role" in said:
            return ConfigurationError(
                f"{message}; add the role to allowed_roles of its database connection"
            )
        if status == 500 and operation.kind is Kind.MINT and _SQLSTATE.search(said):
            return ConfigurationError(
                f"{message}; correct the role's creation_statements, or what the database "
                "connection's own user may do"
            )
        return ProviderUnavailable(
            f"{message}{_advice(operation, status, said)}",
            status=status,
            retry_after=answer.retry_after,
        )
    if answer.body is None and "HTTPS server" in said:
        return MalformedResponse(f"{message}; the address begins with https://", status=status)
    if answer.body is None:
        return MalformedResponse(
            f"{message}; that is not Vault speaking: check the address and what is in between",
            status=status,
        )
    if operation.kind is Kind.LOGIN and any(text in said for text in _EARLY):
        return ProviderUnavailable(
            f"{message}; it will be in a moment: have the clocks of Vault and of who signed the "
            "token synchronised, or raise clock_skew_leeway of the auth role",
            status=status,
        )
    if status == 400:
        return _bad_request(operation, message, said)
    if status in {401, 403}:
        return AccessDenied(f"{message}; {operation.denied}", status=status)
    if status in {404, 405}:
        return ConfigurationError(f"{message}; {operation.missing}")
    return MalformedResponse(f"{message}; no such status is expected here", status=status)


def _advice(operation: Operation, status: int, said: str) -> str:
    if status == 503:
        return "; unseal it, or wait if it is starting"
    if status == 429:
        return "; raise its quota, or ask less often"
    if status == 500 and _CONCURRENT.search(said):
        return (
            "; another statement changed the same entry of PostgreSQL's catalogue at that instant, "
            "and the next attempt succeeds. Where it happens often: GRANT one role to the new one "
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
            if any(text in said for text in _DEATHS):
                return LeaseLost(f"{message}; only new credentials help", status=400)
            return ProviderUnavailable(
                f"{message}; the lease is still there, the trouble is behind Vault", status=400
            )


def malformed(operation: Operation, status: int, lacks: str) -> MalformedResponse:
    """Return the error for a success that does not hold what it should."""
    remedy = "check that the address is Vault's and the mount of the right kind"
    if operation.name == "unwrap":
        remedy = operation.missing
    return MalformedResponse(
        f"Vault at {operation.address}, asked for {operation.what}, answered HTTP {status} with "
        f"{lacks}; {remedy}",
        status=status,
    )


def _said(operation: Operation, answer: Reply) -> str:
    errors = None if answer.body is None else answer.body.get("errors")
    if answer.body is None:
        said = answer.text or answer.kind
    elif isinstance(errors, list) and errors:
        said = "; ".join(str(error) for error in errors)
    else:
        said = "no reason given"
    # Vault spreads lists of errors over lines with bullets: one line is enough in a message.
    said = _scrubbed(" ".join(said.split()), operation.secrets)
    if operation.lease_id:
        said = said.replace(operation.lease_id, shortened(operation.lease_id))
    return said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}…"


def _scrubbed(text: str, secrets: Iterable[Secret]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), "**********")
    return text


def shortened(lease_id: str) -> str:
    """Return a lease id for messages and events: too little of it to renew or revoke it."""
    path, slash, name = lease_id.rpartition("/")
    return f"{path}{slash}{name[:_SHOWN]}…" if len(name) > _SHOWN else lease_id


# --- No HTTP response ---

_IN_DOUBT = "it may have done what was asked all the same"
_SILENT = (
    requests.ReadTimeout,
    urllib3.exceptions.ReadTimeoutError,
    TimeoutError,
)
# OpenSSL's words for an answer that is not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
# OpenSSL's numbers (X509_V_ERR_…) for what a clock or a name is to blame for.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64


def in_doubt(error: Exception) -> bool:
    """Whether the request may have arrived, so that what it asked for may have been done."""
    sent = isinstance(error, requests.RequestException | ReplyTooLarge | OSError)
    return sent and not never_arrived(error)


def from_exception(operation: Operation, error: Exception) -> EphemeralCredsError:
    """Return the error for an exchange that ended without an answer."""
    intro = f"Vault at {operation.address}, asked for {operation.what},"
    chain = list(causes(error))
    if isinstance(error, ReplyTooLarge):
        return MalformedResponse(
            f"{intro} sent {error}, where Vault's answers have a few hundred bytes; that is not "
            f"Vault speaking: check the address and what is in between; {_IN_DOUBT}",
            status=error.status,
        )
    not_sent = never_arrived(error)
    if not_sent and (problem := _tls_problem(chain)) is not None:
        return ConfigurationError(f"{intro} {problem}")
    if isinstance(error, requests.ConnectTimeout):
        return ProviderUnavailable(f"{intro} did not accept a connection in time")
    if any(isinstance(cause, _SILENT) for cause in chain):
        return ProviderUnavailable(f"{intro} did not answer in time; {_IN_DOUBT}")
    if any(isinstance(cause, http.client.IncompleteRead) for cause in chain):
        return MalformedResponse(f"{intro} broke off in the middle of its answer; {_IN_DOUBT}")
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
    """Say what is wrong with the certificate, or that there is none; ``None`` for neither."""
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = getattr(cause, "verify_message", "") or cause.strerror
            remedy = _certificate_remedy(getattr(cause, "verify_code", 0))
            return f"shows a certificate that cannot be trusted: {said}; {remedy}"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in _NOT_TLS:
            return (
                f"does not speak TLS ({cause.reason}); if it is meant to speak plain HTTP, the "
                "address begins with http://"
            )
        if isinstance(cause, ssl.SSLError) and _is_of_a_file(cause):
            return (
                "could not be asked: a file of certificates cannot be used "
                f"({cause.reason or 'it is not PEM'}); check "
                "that VAULT_CACERT, or verify in VaultConfig, names PEM certificates, and "
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY, or client_cert, a certificate and its key"
            )
    return None


def _is_of_a_file(error: ssl.SSLError) -> bool:
    """Whether OpenSSL could not load what it was to use, which it does before it connects."""
    return error.library in {"PEM", "X509", "ASN1"} or "PEM lib" in str(error)


def _certificate_remedy(code: int) -> str:
    if code in {_WRONG_NAME, _WRONG_ADDRESS}:
        return (
            "use a host name that the certificate has, or have one issued for this address "
            "(VAULT_TLS_SERVER_NAME says which name to expect)"
        )
    if code == _NOT_YET_VALID:
        return "check this machine's clock: to it, the certificate is from the future"
    if code == _EXPIRED:
        return "renew Vault's certificate, or check this machine's clock"
    return "set VAULT_CACERT, or verify in VaultConfig, to the CA that issued it"


def _is_not_http(cause: BaseException) -> bool:
    # RemoteDisconnected, though one by class, is an end without any answer.
    return isinstance(
        cause, http.client.BadStatusLine | http.client.LineTooLong
    ) and not isinstance(cause, ConnectionError)
