"""Google Secret Manager."""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Grant
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.address import validate_address
from ephemeral_creds.providers.fields import SecretFields
from ephemeral_creds.providers.google import default_credentials, find_google_token
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.http.rest import (
    bearer,
    is_down,
    malformed,
    said,
    unavailable,
    unexplained,
)
from ephemeral_creds.providers.secrets.base import (
    POLL_INTERVAL,
    Request,
    SecretProvider,
    SecretVersion,
    arguments_from,
    error_in,
)
from ephemeral_creds.providers.secrets.crc32c import crc32c
from ephemeral_creds.providers.url import Key, one_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.fields import SecretFormat
    from ephemeral_creds.providers.google import GoogleCredentials
    from ephemeral_creds.providers.http.reply import Reply
    from ephemeral_creds.providers.url import Location

__all__ = ["GoogleSecretManagerProvider"]

_SERVICE = Service(
    name="Secret Manager",
    address="the location and the endpoint",
    values="the names of project and secret",
)
# https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_PROJECT = re.compile(r"[a-z0-9.:-]{1,63}")
_VERSION = re.compile(r"[A-Za-z0-9_-]{1,63}")
_RESOURCE = re.compile(
    r"projects/(?P<project>[^/]+)(?:/locations/(?P<location>[^/]+))?/secrets/(?P<secret>[^/]+)"
    r"(?:/versions/(?P<version>[^/]+))?"
)
_LATEST = "latest"
_URL_KEYS = {
    **{name: Key(name) for name in ("project", "location", "version", "endpoint")},
    **{name: Key(name) for name in ("service_account", "quota_project")},
    "credentials": Key("credentials", one_of(("platform", "default"))),
}


class GoogleSecretManagerProvider(SecretProvider):
    """A secret of Google Secret Manager.

    See https://cloud.google.com/secret-manager/docs. The version is read every `poll_interval` and
    whenever PostgreSQL refuses it. Without `credentials` the metadata server is asked for an access
    token, at each read, which needs no further package: for the service account of a pod, a service
    or a machine. It has to have ``roles/secretmanager.secretAccessor`` on the secret.

    The latest version is the one that was created last, be it enabled or not: one that is disabled
    or destroyed is an error, and the credentials that were read before stay in use.

    Args:
        name: the name of the secret, or that of its resource:
            ``projects/my-project/secrets/my-secret``, perhaps with a location and a version.
        project: its project; ``None`` takes it from the resource, else from
            ``GOOGLE_CLOUD_PROJECT``.
        version: a version's number or alias to stay at; ``None`` for the latest.
        location: the location of a regional secret.
        credentials: an object of ``google.auth`` whose tokens have `SCOPE`, such as
            ``google.auth.default(scopes=[GoogleSecretManagerProvider.SCOPE])[0]``.
        service_account: which of the platform's service accounts.
        quota_project: the project that the requests are counted for; ``None`` for the one of the
            credentials.
        fields: the secret's names for ``username`` and ``password``, or for ``url``, if they are
            not usual ones.
        username: the user name, if the secret has only a password.
        format: ``password``: the secret is the password itself, whatever it looks like.
        endpoint: the address of the service; ``None`` for that of the location.
        poll_interval: seconds between two reads, each of which is one request; less, at random,
            by up to `RefreshPolicy.jitter`.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: an argument cannot be right, or the project is not known.
    """

    URL_SCHEME: ClassVar[str] = "google-secret"
    SCOPE: ClassVar[str] = "https://www.googleapis.com/auth/cloud-platform"
    """What a token has to allow."""

    def __init__(
        self,
        name: str,
        *,
        project: str | None = None,
        version: str | None = None,
        location: str | None = None,
        credentials: GoogleCredentials | None = None,
        service_account: str = "default",
        quota_project: str | None = None,
        fields: Mapping[str, str] | None = None,
        username: str | None = None,
        format: SecretFormat = "auto",  # noqa: A002 - what it is called everywhere
        endpoint: str | None = None,
        poll_interval: float = POLL_INTERVAL,
        clock: Clock | None = None,
    ) -> None:
        given = {"project": project, "location": location, "version": version}
        secret, parts = _parts(name, given)
        self._version_name = parts["version"] or _LATEST
        self._secret, self._project = secret, parts["project"] or ""
        self._resource = f"projects/{self._project}"
        host = "secretmanager.googleapis.com"
        if parts["location"] is not None:
            self._resource += f"/locations/{parts['location']}"
            host = f"secretmanager.{parts['location']}.rep.googleapis.com"
        self._resource += f"/secrets/{secret}"
        self._address = validate_address(endpoint or f"https://{host}", "endpoint=")
        self._credentials, self._account = credentials, service_account
        own = getattr(credentials, "quota_project_id", None)
        self._quota_project = quota_project or (own if isinstance(own, str) else None)
        super().__init__(
            self._resource,
            _SERVICE,
            fields=SecretFields(fields, username=username, format=format),
            poll_interval=poll_interval,
            clock=clock,
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        arguments = arguments_from(location, _URL_KEYS)
        if arguments.pop("credentials", "platform") == "default":
            arguments["credentials"] = default_credentials(location, cls.SCOPE)
        return arguments

    @property
    def description(self) -> str:
        """The resource of the secret."""
        version = "" if self._version_name == _LATEST else f" version {self._version_name}"
        return f"secret {self._resource}{version} in Google Secret Manager"

    def _attempt(self) -> Grant | EphemeralCredsError:
        requested_at = self._clock.now()
        token = find_google_token(
            self._credentials, [self.SCOPE], self._account, queue=self._events
        )
        if isinstance(token, EphemeralCredsError):
            return type(token)(f"{self.description} cannot be read: {token}")
        headers = bearer(token[0])
        if self._quota_project is not None:
            headers["X-Goog-User-Project"] = self._quota_project
        what = f"{self._resource}/versions/{self._version_name}"
        url = f"{self._address}/v1/{what}:access"
        version = self._ask(Request("read", what, url, headers), self._version_in)
        if isinstance(version, EphemeralCredsError):
            return version
        return Grant(version.credentials, self._lease(requested_at), origin=version.id)

    def _version_in(self, reply: Reply, intro: str) -> SecretVersion | EphemeralCredsError:
        if reply.status != 200 or reply.body is None:
            return self._failure(reply, intro)
        payload = reply.body.get("payload")
        payload = payload if isinstance(payload, dict) else {}
        try:
            data = base64.b64decode(payload.get("data", ""), validate=True)
            text = data.decode()
        except UnicodeDecodeError:
            return ConfigurationError(f"{self.description} is binary: write it as text")
        except (ValueError, TypeError):
            return malformed(intro, 200, "a payload that is not base64")
        # Google asks to compare it: https://cloud.google.com/secret-manager/docs/data-integrity
        sent = payload.get("dataCrc32c")
        if sent is not None and str(sent) != str(crc32c(data)):
            return MalformedResponse(
                f"{intro} sent a payload that has another checksum than it says: it was damaged on "
                "its way, and is asked for again",
                status=200,
            )
        number = str(reply.body.get("name", "")).rpartition("/versions/")[2]
        return self._version(number or None, text)

    def _failure(self, reply: Reply, intro: str) -> EphemeralCredsError:
        """Return the error for a reply that is not a success."""
        status = reply.status
        error = error_in(reply)
        if error is None:
            return unexplained(intro, reply)
        code, words = str(error.get("status", status)), said(error.get("message"))
        message = f"{intro} answered {code}: {words}"
        reasons = str(error.get("details", ""))
        if is_down(reply):
            return unavailable(message, reply)
        if status == 401:
            return AccessDenied(f"{message}; check the credentials of this process", status=status)
        if status == 403 and "SERVICE_DISABLED" in reasons:
            enable = (
                f"gcloud services enable secretmanager.googleapis.com --project={self._project}"
            )
            return ConfigurationError(f"{message}; to enable it: {enable}")
        if status == 403:
            return AccessDenied(f"{message}; {_right(reasons)}", status=status)
        return ConfigurationError(f"{message}; {self._remedy(code, words)}")

    def _remedy(self, code: str, words: str) -> str:
        secret = f"--secret={self._secret} --project={self._project}"
        if code == "FAILED_PRECONDITION" and "DISABLED" in words:
            number = re.search(r"/versions/([0-9]+)", words)
            which = number[1] if number else "NUMBER"
            return (
                f"to enable it: gcloud secrets versions enable {which} {secret}; or write another"
            )
        if code == "FAILED_PRECONDITION" and "DESTROYED" in words:
            return "write a new version"
        if code == "NOT_FOUND":
            return "check project, location and name, and that the secret has such a version"
        return "check the names, the version and, if there is one, the key that encrypts the secret"


def _parts(name: str, given: Mapping[str, str | None]) -> tuple[str, dict[str, str | None]]:
    """Return the name of the secret, and its project, location and version.

    Raises:
        ConfigurationError: they contradict each other, or one of them cannot be right.
    """
    found = _RESOURCE.fullmatch(name.strip("/"))
    secret, parts = name, dict(given)
    if found is not None:
        secret = found["secret"]
        for part, value in given.items():
            if None not in (value, found[part]) and value != found[part]:
                raise ConfigurationError(f"{part}={value!r} is not that of {name}, {found[part]}")
            parts[part] = found[part] or value
    parts["project"] = parts["project"] or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if parts["project"] is None:
        raise ConfigurationError(
            f"GoogleSecretManagerProvider({name!r}): the project is not known: set project= or "
            "GOOGLE_CLOUD_PROJECT, or give the name as projects/PROJECT/secrets/NAME"
        )
    for what, value, pattern in (
        ("name", secret, _NAME),
        ("project", parts["project"], _PROJECT),
        ("location", parts["location"], _PROJECT),
        ("version", parts["version"], _VERSION),
    ):
        if value is not None and not pattern.fullmatch(value):
            raise ConfigurationError(f"{value!r} cannot be the {what} of a secret of Google's")
    return secret, parts


def _right(reasons: str) -> str:
    if "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in reasons:
        return f"the token lacks the scope {GoogleSecretManagerProvider.SCOPE}: check the machine's"
    if "USER_PROJECT_DENIED" in reasons:
        return "grant roles/serviceusage.serviceUsageConsumer on the quota project"
    return (
        "check the name, and grant roles/secretmanager.secretAccessor on the secret to the account "
        "of this process"
    )
