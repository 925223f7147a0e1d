"""Access tokens of Google Cloud: of the platform's service account, or of a credentials object."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
)
from ephemeral_creds.providers.access import call_for_token
from ephemeral_creds.providers.http.metadata import query_metadata, query_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ephemeral_creds.providers.access import AccessToken
    from ephemeral_creds.providers.http.event_queue import EventQueue
    from ephemeral_creds.providers.url import Location

__all__ = ["GoogleCredentials", "default_credentials", "find_google_token", "service_account_email"]

# Seconds for each request of google.auth, whose own limit is two minutes.
_TIMEOUT = 10
_LIFETIME = 300.0
_HEADER = ("Metadata-Flavor", "Google")


class GoogleCredentials(Protocol):
    """A credentials object of ``google.auth``, with the scopes that its tokens need."""

    token: Any
    expiry: Any

    def refresh(self, request: Any) -> None:
        """Get another token."""
        ...


def default_credentials(location: Location, scope: str) -> GoogleCredentials:
    """Return what google.auth finds, for ``credentials=default`` in a URL.

    Raises:
        ConfigurationError: google.auth is not installed, or finds nothing.
    """
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
    except ModuleNotFoundError:
        raise location.error(
            "credentials=default", "needs google-auth: install ephemeral-creds[google]"
        ) from None
    try:
        found: GoogleCredentials = google.auth.default(scopes=[scope])[0]
    except GoogleAuthError as error:
        raise location.error(
            "credentials=default",
            f"google.auth finds nothing ({type(error).__name__}): set "
            "GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login",
        ) from None
    return found


def find_google_token(
    credentials: GoogleCredentials | None,
    scopes: Sequence[str],
    account: str = "default",
    *,
    queue: EventQueue,
    environ: Mapping[str, str] = os.environ,
) -> AccessToken | EphemeralCredsError:
    """Return a token with these scopes, or why there is no token.

    Args:
        credentials: what to ask; ``None`` asks the metadata server for the service account of a
            pod, a service or a machine.
        scopes: what the token allows; a credentials object has its own.
        account: which of the machine's service accounts.
        queue: gets the event of a request to the metadata server; what a credentials object does
            is not known.
        environ: where ``GCE_METADATA_HOST`` may name the metadata server.
    """
    if credentials is not None:
        return call_for_token(
            lambda: _refresh(credentials),
            f"{type(credentials).__name__} of google.auth",
            lifetime=_LIFETIME,
            explain=_of_google_auth,
        )
    path = f"{_path(account)}/token?{urlencode({'scopes': ','.join(scopes)})}"
    return query_token(queue, _address(environ), path, _HEADER)


def service_account_email(
    account: str = "default",
    *,
    queue: EventQueue,
    environ: Mapping[str, str] = os.environ,
) -> str | EphemeralCredsError:
    """Return the address of the platform's service account, or why it is not known."""
    return query_metadata(
        queue, "describe", _address(environ), f"{_path(account)}/email", _HEADER, Secret.reveal
    )


def _address(environ: Mapping[str, str]) -> str:
    return f"http://{environ.get('GCE_METADATA_HOST') or 'metadata.google.internal'}"


def _path(account: str) -> str:
    return f"/computeMetadata/v1/instance/service-accounts/{quote(account, safe='@.-')}"


def _refresh(credentials: GoogleCredentials) -> tuple[object, object]:
    # Only their owner can have made the credentials without it.
    from google.auth.transport.requests import Request

    credentials.refresh(partial(Request(), timeout=_TIMEOUT))
    expiry: object = credentials.expiry
    if isinstance(expiry, datetime) and expiry.tzinfo is None:
        expiry = expiry.replace(tzinfo=UTC)
    return credentials.token, expiry


def _of_google_auth(error: Exception) -> EphemeralCredsError | None:
    """Return the error for one of google.auth, by its class."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "RefreshError" in kinds and not getattr(error, "retryable", False):
        return AccessDenied(
            "Google refuses a token for the credentials of google.auth: check that the account and "
            "its key exist, and log in once more: gcloud auth application-default login"
        )
    if isinstance(error, ImportError) or "DefaultCredentialsError" in kinds:
        return ConfigurationError(
            f"google.auth cannot be used ({type(error).__name__}): install ephemeral-creds[google]"
        )
    return None
