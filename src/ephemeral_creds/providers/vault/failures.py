"""The one place where the lack of an answer becomes an error of ours.

Like those of `_errors`, the errors are returned and raised elsewhere. Of an exception only its
type and what the operating system or TLS said is used: its text may hold a proxy's password, a
header or a body.
"""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING

import requests
import urllib3.exceptions

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.vault.http.answer import AnswerTooLarge
from ephemeral_creds.providers.vault.http.connections import causes, never_arrived

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.providers.vault.errors import Operation

__all__ = ["from_exception", "in_doubt"]

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
    sent = isinstance(error, requests.RequestException | AnswerTooLarge | OSError)
    return sent and not never_arrived(error)


def from_exception(operation: Operation, error: Exception) -> EphemeralCredsError:
    """Return the error for an exchange that ended without an answer."""
    intro = f"Vault at {operation.address}, asked for {operation.what},"
    chain = list(causes(error))
    if isinstance(error, AnswerTooLarge):
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
