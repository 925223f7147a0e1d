"""Tokens of Google Cloud for Cloud SQL and AlloyDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.google import (
    default_credentials,
    find_google_token,
    service_account_email,
)
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider, role_and_arguments
from ephemeral_creds.providers.url import FromURL, Key, one_of

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers.google import GoogleCredentials
    from ephemeral_creds.providers.url import Location

__all__ = ["AlloyDBIAMProvider", "CloudSQLIAMProvider"]

_DOMAIN = ".gserviceaccount.com"
_URL_KEYS = {
    "service_account": Key("service_account"),
    "credentials": Key("credentials", one_of(("platform", "default"))),
}


class CloudSQLIAMProvider(DatabaseTokenProvider, FromURL):
    """Tokens of Google Cloud that Cloud SQL takes for a password (IAM authentication).

    See https://cloud.google.com/sql/docs/postgres/iam-logins. Without `credentials` the metadata
    server is asked, which needs no further package: for the service account of a pod, a service or
    a machine.

    Args:
        username: the PostgreSQL role to log in as: a person's address, or that of a service account
            with or without ``.gserviceaccount.com``; ``None`` for the platform's service account.
        credentials: an object of ``google.auth`` whose tokens have `SCOPE`, such as
            ``google.auth.default(scopes=[CloudSQLIAMProvider.SCOPE])[0]``.
        service_account: which of the platform's service accounts.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: there are credentials, but no user name.
    """

    URL_SCHEME: ClassVar[str] = "cloudsql-iam"
    SCOPE: ClassVar[str] = "https://www.googleapis.com/auth/sqlservice.login"
    """What a token has to allow."""

    _refusal_hint: ClassVar[str] = (
        "check that the instance has the flag cloudsql.iam_authentication, that the account is one "
        "of its users and has roles/cloudsql.instanceUser, and that the role's name ends before "
        ".gserviceaccount.com"
    )

    def __init__(
        self,
        username: str | None = None,
        *,
        credentials: GoogleCredentials | None = None,
        service_account: str = "default",
        clock: Clock | None = None,
    ) -> None:
        if credentials is not None and not username:
            raise ConfigurationError(
                f"{type(self).__name__}(username=): must name the role that belongs to credentials="
            )
        self._credentials, self._account = credentials, service_account
        by = f"service account {service_account!r} of the platform"
        if credentials is not None:
            by = f"{type(credentials).__name__} of google.auth"
        name = (username or "").removesuffix(_DOMAIN)
        super().__init__(name, f"Google Cloud, by {by}", clock=clock)

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        arguments = role_and_arguments(location, _URL_KEYS, needs_role=False)
        if arguments.pop("credentials", "platform") == "default":
            arguments["credentials"] = default_credentials(location, cls.SCOPE)
        return arguments

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        if not self._username:
            email = service_account_email(self._account, queue=self._events)
            if isinstance(email, EphemeralCredsError):
                return email
            self._username = self._events.role = email.removesuffix(_DOMAIN)
        found = find_google_token(
            self._credentials, [self.SCOPE], self._account, queue=self._events
        )
        return found if isinstance(found, EphemeralCredsError) else (self._with(found[0]), found[1])


class AlloyDBIAMProvider(CloudSQLIAMProvider):
    """Tokens of Google Cloud that AlloyDB takes for a password (IAM authentication).

    See https://cloud.google.com/alloydb/docs/connect-iam. The arguments are those of
    `CloudSQLIAMProvider`, except that tokens need another `SCOPE`.
    """

    URL_SCHEME: ClassVar[str] = "alloydb-iam"
    SCOPE: ClassVar[str] = "https://www.googleapis.com/auth/alloydb.login"
    """What a token has to allow."""

    _refusal_hint: ClassVar[str] = (
        "check that the instance has the flag alloydb.iam_authentication, that the account is one "
        "of its users and has roles/alloydb.databaseUser and "
        "roles/serviceusage.serviceUsageConsumer, and that the role's name ends before "
        ".gserviceaccount.com"
    )
