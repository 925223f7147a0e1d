"""Tokens of Databricks for Lakebase."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
)
from ephemeral_creds.providers.access import access_token_in, call_for_token
from ephemeral_creds.providers.address import validate_address
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.http.rest import (
    RestClient,
    bearer,
    is_down,
    malformed,
    said,
    unavailable,
)
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider, role_and_arguments
from ephemeral_creds.providers.url import FromURL, Key, Location

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers.access import AccessToken, TokenAnswer
    from ephemeral_creds.providers.http.reply import Reply

__all__ = ["LakebaseProvider"]

# What Databricks' own tools read.
_HOST, _ID, _SECRET = "DATABRICKS_HOST", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"
# Seconds: unused, since the token that comes in between is for one request.
_LIFETIME = 300.0
_ENDPOINT = re.compile(r"projects/[^/]+/branches/[^/]+/endpoints/[^/]+")
_SERVICE = Service(
    name="Databricks",
    address=f"the address of the workspace ({_HOST})",
    values="the address, the client id and the secret",
)
_URL_KEYS = {
    **{name: Key(name) for name in ("instance", "endpoint", "address", "client_id")},
    "client_secret_file": Key("client_secret_file", Location.absolute_path),
    "client_secret_env": Key("client_secret", Location.variable),
}


class WorkspaceConfig(Protocol):
    """The part of ``databricks.sdk.config.Config`` that is used."""

    @property
    def host(self) -> str | None:
        """The address of the workspace."""
        ...

    def authenticate(self) -> Mapping[str, str]:
        """Return the headers that log in a request."""
        ...


class Workspace(Protocol):
    """A ``databricks.sdk.WorkspaceClient``, or any other object with such a `config`."""

    @property
    def config(self) -> WorkspaceConfig:
        """Where the workspace is, and how to log in."""
        ...


class LakebaseProvider(DatabaseTokenProvider, FromURL):
    """Tokens of Databricks that Lakebase takes for a password.

    See https://docs.databricks.com/aws/en/oltp/projects/authentication. For each token, two
    requests are sent: one that logs in to the workspace, unless `workspace` or `token` do, and one
    for the database's token, which lives for an hour. No further package is needed.

    Args:
        username: the PostgreSQL role to log in as, which is the application id of a service
            principal or the address of a person; ``None`` for the `client_id`.
        instance: the name of a database instance (Lakebase Provisioned).
        endpoint: or the resource name of an endpoint (Lakebase Autoscaling):
            ``projects/my-project/branches/production/endpoints/primary``.
        workspace: a ``databricks.sdk.WorkspaceClient`` that logs in to the workspace.
        token: or a function that returns an access token of the workspace; what `TokenProvider`
            says of its function applies. Its end is not used.
        client_id: or the application id of a service principal; ``None`` means
            ``DATABRICKS_CLIENT_ID``.
        client_secret: its OAuth secret; ``None``, without a file, means
            ``DATABRICKS_CLIENT_SECRET``.
        client_secret_file: a file to read it from for each token.
        address: the address of the workspace; ``None`` for that of `workspace`, else
            ``DATABRICKS_HOST``.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: an argument is missing, contradicts another, or cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "lakebase"
    _refusal_hint: ClassVar[str] = (
        "check that the role is there: CREATE EXTENSION IF NOT EXISTS databricks_auth; SELECT "
        "databricks_create_role('NAME', 'SERVICE_PRINCIPAL'), or 'USER'; its name is the "
        "application id of the service principal, or the address of the person, that logs in to "
        "the workspace; check that the instance or endpoint is the one that is connected to"
    )

    def __init__(
        self,
        username: str | None = None,
        *,
        instance: str | None = None,
        endpoint: str | None = None,
        workspace: Workspace | None = None,
        token: Callable[[], TokenAnswer] | None = None,
        client_id: str | None = None,
        client_secret: str | Secret | None = None,
        client_secret_file: str | os.PathLike[str] | None = None,
        address: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Before anything is raised: a traceback shows the arguments as they are by then.
        client_secret, problem = as_secret(client_secret)
        if bool(instance) == bool(endpoint):
            raise ConfigurationError(
                "LakebaseProvider: give instance=, the name of a database instance, or endpoint=, "
                "projects/PROJECT/branches/BRANCH/endpoints/ENDPOINT; one of the two"
            )
        if endpoint and not _ENDPOINT.fullmatch(endpoint):
            raise ConfigurationError(
                f"LakebaseProvider(endpoint={endpoint!r}): must be projects/PROJECT/branches/BRANCH"
                "/endpoints/ENDPOINT, as databricks postgres list-endpoints shows it"
            )
        own = [client_id, client_secret, client_secret_file]
        ways = [workspace is not None, token is not None, any(each is not None for each in own)]
        if sum(ways) > 1:
            raise ConfigurationError(
                "LakebaseProvider: workspace=, token= and client_id= with its secret are three "
                "ways to log in to the workspace: give one"
            )
        self._workspace, self._token = workspace, token
        self._client_id, by = "", "a function"
        self._secret, self._secret_file = client_secret, file_path(client_secret_file)
        if workspace is not None:
            by = type(workspace).__name__
            address = address or workspace.config.host
        elif token is None:
            if client_secret is not None and client_secret_file is not None:
                problem = "and client_secret_file contradict each other: give one"
            elif client_secret is None and not problem and client_secret_file is None:
                self._secret, problem = as_secret(os.environ.get(_SECRET))
                problem = problem or ("" if self._secret else f"is missing: give it, or {_SECRET}")
            if problem:
                raise ConfigurationError(f"LakebaseProvider: client_secret {problem}")
            self._client_id = client_id or os.environ.get(_ID, "")
            if not self._client_id:
                raise ConfigurationError(
                    f"LakebaseProvider: client_id is missing: give it, or set {_ID}"
                )
            by = f"client {self._client_id}"
        role = username or self._client_id
        if not role:
            raise ConfigurationError(
                "LakebaseProvider(username=): must name the role of the identity that logs in"
            )
        self._address = _address(address or os.environ.get(_HOST, ""))
        self._instance, self._endpoint = instance, endpoint
        self._which = f"instance {instance!r}" if instance else str(endpoint)
        source = f"Databricks at {self._address}, by {by}, for {self._which}"
        super().__init__(role, source, clock=clock)

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        arguments = role_and_arguments(location, _URL_KEYS, needs_role=False)
        environ = location.environ
        arguments.setdefault("address", environ.get(_HOST))
        arguments.setdefault("client_id", environ.get(_ID))
        if not {"client_secret", "client_secret_file"} & arguments.keys():
            arguments["client_secret"], _ = as_secret(environ.get(_SECRET) or None)
        return arguments

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        client = RestClient(_SERVICE)
        try:
            access = self._log_in(client)
            if isinstance(access, EphemeralCredsError):
                return access
            return self._database_token(client, access)
        finally:
            client.close()

    def _log_in(self, client: RestClient) -> Secret | EphemeralCredsError:
        """Return an access token of the workspace."""
        if (workspace := self._workspace) is not None:
            what = f"{type(workspace).__name__} of databricks-sdk"
            found = call_for_token(lambda: _bearer_of(workspace), what, lifetime=_LIFETIME)
        elif self._token is not None:
            found = call_for_token(self._token, self.description, lifetime=_LIFETIME)
        else:
            found = self._log_in_by_secret(client)
        return found if isinstance(found, EphemeralCredsError) else found[0]

    def _log_in_by_secret(self, client: RestClient) -> AccessToken | EphemeralCredsError:
        """Log in a service principal; see https://docs.databricks.com/dev-tools/auth/oauth-m2m."""
        secret = self._secret
        if secret is None:
            assert self._secret_file is not None  # noqa: S101 - the constructor has checked it
            secret = read_secret(self._secret_file, "the client secret")
        what = f"Databricks at {self._address}, asked to log in client {self._client_id},"
        remedy = (
            "check the client id and its OAuth secret, which Databricks lets expire after two "
            "years at most, and that the service principal is assigned to this workspace"
        )

        def parse(reply: Reply) -> AccessToken | EphemeralCredsError:
            if reply.status == 200 and reply.body is not None:
                return access_token_in(reply.body, what)
            return _failure(reply, what, "error", {400: remedy, 401: remedy, 403: remedy})

        return client.ask(
            self._events,
            "login",
            what,
            "POST",
            f"{self._address}/oidc/v1/token",
            parse,
            headers={
                "Authorization": _basic(self._client_id, secret),
                "Content-Type": "application/x-www-form-urlencoded",
            },
            body="grant_type=client_credentials&scope=all-apis",
        )

    def _database_token(
        self, client: RestClient, access: Secret
    ) -> tuple[Credentials, float] | EphemeralCredsError:
        """Exchange the workspace's token for one of the database."""
        request: dict[str, object] = {"endpoint": self._endpoint}
        if self._endpoint:
            # https://docs.databricks.com/api/postgres/v1/generate-database-credential.md
            api, end_name = "postgres", "expire_time"
        else:
            # https://docs.databricks.com/api/database/v1/generate-database-credential.md
            api, end_name = "database", "expiration_time"
            request = {"request_id": str(uuid.uuid4()), "instance_names": [self._instance]}
        what = f"Databricks at {self._address}, asked for a token for {self._which},"
        kind = "endpoint" if self._endpoint else "instance"
        remedies = {
            401: "the workspace does not take the access token: check that it is one of this "
            "workspace, and no personal access token that has expired",
            403: f"allow the identity to use the {kind}: CAN USE on it",
            404: f"check the address of the workspace and the name of the {kind}",
        }

        def parse(reply: Reply) -> tuple[Credentials, float] | EphemeralCredsError:
            if reply.status != 200 or reply.body is None:
                return _failure(reply, what, "error_code", remedies)
            token, ends_at = reply.body.get("token"), _instant(reply.body.get(end_name))
            if isinstance(token, str) and token and ends_at is not None:
                return self._with(Secret(token)), ends_at - time.time()
            return malformed(what, 200, f"a body without token or {end_name}")

        return client.ask(
            self._events,
            "read",
            what,
            "POST",
            f"{self._address}/api/2.0/{api}/credentials",
            parse,
            headers={**bearer(access), "Content-Type": "application/json"},
            body=json.dumps(request),
        )


def _address(text: str) -> str:
    """Return the workspace's address; Databricks Apps give a name without a scheme."""
    if not text:
        raise ConfigurationError(
            f"LakebaseProvider(address=): the workspace is missing: give it, or set {_HOST}"
        )
    return validate_address(text if "://" in text else f"https://{text}", "address=")


def _bearer_of(workspace: Workspace) -> str:
    """Return the access token in the headers of a `WorkspaceClient`.

    Raises:
        ConfigurationError: it logs in another way.
    """
    scheme, _, token = workspace.config.authenticate().get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise ConfigurationError(
            f"{type(workspace).__name__} of databricks-sdk logs in without a token, by "
            f"{scheme or 'nothing'}: give it an OAuth login, such as a client id and a secret"
        )
    return token


def _basic(client_id: str, secret: Secret) -> Secret:
    pair = Secret(f"{client_id}:{secret.reveal()}")
    return Secret(f"Basic {base64.b64encode(pair.reveal().encode()).decode()}")


def _instant(text: object) -> float | None:
    """Return what RFC 3339 text says, in seconds since 1970."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _failure(
    reply: Reply, intro: str, key: str, remedies: Mapping[int, str]
) -> EphemeralCredsError:
    """Return the error for a reply that is not a success.

    Args:
        reply: the reply.
        intro: the beginning of the message.
        key: what the body calls its code; see https://docs.databricks.com/api/account/errors.
        remedies: what to do, by status.
    """
    status, body = reply.status, reply.body or {}
    code = body.get(key)
    message = f"{intro} answered HTTP {status}{f': {code}' if isinstance(code, str) else ''}"
    # Words about a login may repeat what was sent.
    if key == "error_code" and status != 401 and "message" in body:
        message += f": {said(body['message'])}"
    if is_down(reply):
        return unavailable(message, reply)
    if status in (401, 403) or (status == 400 and status in remedies):
        return AccessDenied(f"{message}; {remedies[status]}", status=status)
    if reply.body is None or not isinstance(code, str):
        return malformed(intro, status, reply.kind)
    remedy = remedies.get(status, "check the address of the workspace and the names in the request")
    return ConfigurationError(f"{message}; {remedy}")
