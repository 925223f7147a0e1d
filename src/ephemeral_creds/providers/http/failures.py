"""Translates requests that ended without a reply into one of the library's errors.

Of an exception only its type and the words of the operating system or TLS are used: its text may
hold a proxy's password, a header or a body.
"""

from __future__ import annotations

import http.client
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
from ephemeral_creds.providers.http.adapters import causes, never_arrived
from ephemeral_creds.providers.http.reply import ReplyTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.events import Outcome

__all__ = ["Service", "from_exception", "is_in_doubt", "outcome_of"]

_NO_REPLY = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
# OpenSSL's words for bytes that are not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
# OpenSSL's numbers (X509_V_ERR_…) for failures with a remedy of their own.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What messages call a service, and the settings that reach it.

    Attributes:
        name: its name: ``Vault``.
        address: the address: ``the address (VAULT_ADDR)``.
        values: what a request is made of, which may have characters that HTTP cannot carry.
        trust: how to trust another CA: ``set VAULT_CACERT to``, to be followed by which.
        files: which files TLS is set up with.
        expected_name: how to set the name that the certificate has to have; empty if that cannot
            be set.
        in_doubt: what may have happened if there is no reply; empty if nothing follows from it.
    """

    name: str
    address: str
    values: str
    # The variable that requests reads.
    trust: str = "set REQUESTS_CA_BUNDLE to"
    files: str = "that REQUESTS_CA_BUNDLE names PEM certificates"
    expected_name: str = ""
    in_doubt: str = ""


def is_in_doubt(error: Exception) -> bool:
    """Whether the request may have arrived, so that it may have been carried out."""
    sent = isinstance(error, requests.RequestException | ReplyTooLarge | OSError)
    return sent and not never_arrived(error)


def outcome_of(result: object, status: int | None, *, in_doubt: bool = False) -> Outcome:
    """Return how a request ended, for its event.

    Args:
        result: the parsed reply, or the error.
        status: the HTTP status of the reply; ``None`` without one.
        in_doubt: whether it may have been carried out, if `result` is an error.
    """
    if not isinstance(result, EphemeralCredsError):
        return "done"
    if in_doubt:
        return "unknown"
    if status is not None and isinstance(result, AccessDenied | ConfigurationError | LeaseLost):
        return "refused"
    return "failed"


def from_exception(
    service: Service, intro: str, error: Exception, *, tls: bool = True
) -> EphemeralCredsError:
    """Return the error for a request that ended without a reply.

    Args:
        service: what was asked.
        intro: the beginning of the message: ``Vault at https://…, asked for …,``.
        error: how it ended.
        tls: whether the address begins with https.
    """
    chain = list(causes(error))
    doubt = f"; {service.in_doubt}" if service.in_doubt else ""
    if isinstance(error, ReplyTooLarge):
        return MalformedResponse(
            f"{intro} sent {error}, where {service.name}'s replies have a few hundred bytes; the "
            f"reply is not {service.name}'s: check the address and any proxy in between{doubt}",
            status=error.status,
        )
    not_sent = never_arrived(error)
    if not_sent and (problem := _tls_problem(service, chain)) is not None:
        return ConfigurationError(f"{intro} {problem}")
    if isinstance(error, requests.ConnectTimeout):
        return ProviderUnavailable(f"{intro} did not accept a connection in time")
    if any(isinstance(cause, _NO_REPLY) for cause in chain):
        return ProviderUnavailable(f"{intro} did not answer in time{doubt}")
    if any(isinstance(cause, http.client.IncompleteRead) for cause in chain):
        return MalformedResponse(f"{intro} broke off in the middle of its reply{doubt}")
    if any(_is_not_http(cause) for cause in chain):
        return MalformedResponse(
            f"{intro} does not speak HTTP; check host and port of {service.address}"
        )
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return MalformedResponse(f"{intro} sent a body that cannot be decoded{doubt}")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        said = next((c.strerror for c in chain if isinstance(c, OSError) and c.strerror), None)
        if not_sent:
            doubt = ""
        elif not tls:
            doubt = f"; if it speaks TLS, the address begins with https://{doubt}"
        return ProviderUnavailable(
            f"{intro} cannot be reached: {said or type(error).__name__}; check "
            f"{service.address} and that {service.name} runs there{doubt}"
        )
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return ConfigurationError(
            f"{intro} could not be asked: {error.strerror or error}; check {service.files}"
        )
    if isinstance(error, ValueError):
        # requests' InvalidURL and InvalidHeader, and a UnicodeError for what no header can hold.
        return ConfigurationError(
            f"{intro} could not be asked: {type(error).__name__}; check {service.values} for "
            "characters that HTTP cannot carry"
        )
    return ProviderUnavailable(f"{intro} could not be asked: {type(error).__name__}")


def _tls_problem(service: Service, chain: Sequence[BaseException]) -> str | None:
    """Return what is wrong with TLS or its files; ``None`` if nothing is."""
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = getattr(cause, "verify_message", "") or cause.strerror
            remedy = _certificate_remedy(service, getattr(cause, "verify_code", 0))
            return f"has a certificate that cannot be trusted: {said}; {remedy}"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in _NOT_TLS:
            return (
                f"does not speak TLS ({cause.reason}); if it is meant to speak plain HTTP, the "
                "address begins with http://"
            )
        if isinstance(cause, ssl.SSLError) and _is_of_a_file(cause):
            return (
                "could not be asked: a certificate file cannot be loaded "
                f"({cause.reason or 'it is not PEM'}); check {service.files}"
            )
    return None


def _is_of_a_file(error: ssl.SSLError) -> bool:
    """Whether OpenSSL could not load a file, which it does before it connects."""
    return error.library in {"PEM", "X509", "ASN1"} or "PEM lib" in str(error)


def _certificate_remedy(service: Service, code: int) -> str:
    if code in {_WRONG_NAME, _WRONG_ADDRESS}:
        return "use a host name that the certificate has, or have one issued for this address" + (
            f" ({service.expected_name})" if service.expected_name else ""
        )
    if code == _NOT_YET_VALID:
        return "check this machine's clock: the certificate is not valid yet"
    if code == _EXPIRED:
        return f"renew {service.name}'s certificate, or check this machine's clock"
    return f"{service.trust} the CA that issued it"


def _is_not_http(cause: BaseException) -> bool:
    # RemoteDisconnected is one by class, but means an end without any reply.
    return isinstance(
        cause, http.client.BadStatusLine | http.client.LineTooLong
    ) and not isinstance(cause, ConnectionError)
