"""Dynamic secrets of Infisical: database credentials that it mints, each with a lease."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials, Grant, Lease
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    MalformedResponse,
)
from ephemeral_creds.providers.address import plain_http_warning, validate_address
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.providers.fields import FIELD_KEYS, SecretFields
from ephemeral_creds.providers.infisical.client import InfisicalClient, Place
from ephemeral_creds.providers.infisical.replies import is_at_maximum, seconds_of
from ephemeral_creds.providers.infisical.session import Session
from ephemeral_creds.providers.inputs import as_secret, file_path, read_secret
from ephemeral_creds.providers.url import FromURL, Key, Location

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.events import Event
    from ephemeral_creds.providers.infisical.replies import AccessToken

__all__ = ["InfisicalProvider"]

logger = logging.getLogger("ephemeral_creds")

_CLOUD = "https://app.infisical.com"
# Infisical refuses a shorter TTL.
_LEAST_TTL = 60
# Its own times have milliseconds, and a maximum is not to be missed by one.
_SLACK = 2.0

_ID, _SECRET = "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"
_URL_KEYS = {
    "project": Key("project", needed="the slug of the project"),
    "environment": Key("environment", needed="the slug of the environment, such as prod"),
    "path": Key("path"),
    "ttl": Key("ttl"),
    "client_id": Key("client_id"),
    "client_secret_file": Key("client_secret_file", Location.absolute_path),
    "client_secret_env": Key("client_secret", Location.variable),
    "address": Key("address"),
    "cacert": Key("verify", Location.absolute_path),
}


@dataclass(slots=True)
class _Origin:
    """What renewing or revoking a grant takes; `expires_at` is on Infisical's clock."""

    owner: Session
    lease_id: str
    initial_duration: float
    extensible_until: float
    expires_at: float


class InfisicalProvider(FromURL, CredentialProvider):
    """Credentials of a dynamic secret of Infisical, of the type PostgreSQL.

    Each `fetch` makes Infisical create a user in PostgreSQL, by one request that is never repeated.
    `renew` extends its lease by what has passed, up to the maximum TTL of the dynamic secret, and
    `revoke` ends it and drops the user. A lease does not depend on the access token that it was
    made under: if that expires, the next request logs in again.

    May be used from several threads, one request at a time. A fork's child starts afresh, and
    leaves its parent's leases alone. See
    https://infisical.com/docs/documentation/platform/dynamic-secrets/postgresql.

    Args:
        name: the name of the dynamic secret.
        project: the slug of its project.
        environment: the slug of the environment.
        path: the folder that it is in.
        ttl: how long leases live, as Infisical takes it: ``1h``; ``None`` means its default.
        client_id: of the machine identity's universal auth; ``None`` means the environment variable
            ``INFISICAL_UNIVERSAL_AUTH_CLIENT_ID``.
        client_secret: its client secret; ``None``, without a file, means
            ``INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET``.
        client_secret_file: a file to read it from at each login.
        address: where Infisical is; ``None`` means ``INFISICAL_DOMAIN``, or Infisical's own cloud.
        fields: its names for ``username`` and ``password``, if they are not the usual ones.
        verify: a file or directory of CAs to trust; ``None`` means the environment's.
        clock: where to read time from; ``None`` means the system's.

    Raises:
        ConfigurationError: an argument is missing, or cannot be right.
    """

    mints: ClassVar[bool] = True
    URL_SCHEME: ClassVar[str] = "infisical"

    def __init__(
        self,
        name: str,
        *,
        project: str,
        environment: str,
        path: str = "/",
        ttl: str | None = None,
        client_id: str | None = None,
        client_secret: str | Secret | None = None,
        client_secret_file: str | os.PathLike[str] | None = None,
        address: str | None = None,
        fields: Mapping[str, str] | None = None,
        verify: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Before anything is raised: a traceback shows the arguments as they are by then.
        client_secret, problem = as_secret(client_secret)
        if client_secret is None and not problem and client_secret_file is None:
            client_secret, problem = as_secret(os.environ.get(_SECRET))
            missing = f"is missing: set {_SECRET}, or give client_secret_file="
            problem = problem or ("" if client_secret else missing)
        elif client_secret_file is not None and client_secret is not None:
            problem = "and client_secret_file contradict each other: give one"
        if problem:
            raise ConfigurationError(f"client_secret {problem}")
        self._client_id = client_id or os.environ.get(_ID, "")
        if not self._client_id:
            raise ConfigurationError(f"client_id is missing: set {_ID}, or give client_id=")
        for argument, value in (("name", name), ("project", project), ("environment", environment)):
            if not value:
                raise ConfigurationError(f"{argument} is empty")
        if ttl is not None and not _LEAST_TTL <= seconds_of(ttl) < math.inf:
            raise ConfigurationError(f"ttl={ttl!r}: must be 1m or longer, such as 1h")
        self._secret, self._secret_file = client_secret, file_path(client_secret_file)
        self._place = Place(project, environment, "/" + path.strip("/"))
        self._name, self._ttl = name, ttl
        self._address = validate_address(
            address or _address_from(os.environ), "Infisical's address", example=_CLOUD, plain=True
        )
        if warning := plain_http_warning("Infisical", self._address):
            logger.warning("%s", warning)
        self._fields = SecretFields(fields)
        self._verify = verify
        self._clock = SystemClock() if clock is None else clock
        self._session = self._make_session()
        self._inherited: list[Session] = []

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        if not location.name or location.path.strip("/"):
            raise location.error(
                "the name", "must be that of the dynamic secret: infisical://NAME?project=…"
            )
        location.expect((*_URL_KEYS, *FIELD_KEYS))
        arguments = {"address": _address_from(location.environ), **location.arguments(_URL_KEYS)}
        arguments.setdefault("client_id", location.environ.get(_ID))
        if not {"client_secret", "client_secret_file"} & arguments.keys():
            arguments["client_secret"], _ = as_secret(location.environ.get(_SECRET) or None)
        return {"name": location.name, "fields": location.arguments(FIELD_KEYS), **arguments}

    def __repr__(self) -> str:
        made = hasattr(self, "_session")
        return f"<{type(self).__name__} {self.description if made else 'not made'}>"

    @property
    def description(self) -> str:
        """Name, place and address, for messages."""
        return f"Infisical dynamic secret {self._name!r} ({self._place} at {self._address})"

    def fetch(self) -> Grant:
        """Mint credentials, after a login if needed.

        Raises:
            ConfigurationError: no such project, environment, folder or dynamic secret, or what it
                makes has no usable user name and password.
            AccessDenied: refused, also after a fresh login.
            ProviderUnavailable: Infisical, or PostgreSQL behind it, does not answer.
            MalformedResponse: the reply is not Infisical's.
        """
        session = self._own_session()
        with session:
            requested_at, made = session.run(
                lambda token: session.client.create_lease(token, self._ttl, self._fields)
            )
            found: Credentials | EphemeralCredsError = made.credentials
            if session.closed:
                found = session.closed_error()
            elif made.duration <= 0 and isinstance(found, Credentials):
                found = MalformedResponse(f"{self.description} gave a lease of 0 seconds")
            if isinstance(found, EphemeralCredsError):
                # The user exists by now, and is never going to be used.
                with contextlib.suppress(EphemeralCredsError):
                    session.run(lambda token: session.client.revoke_lease(token, made.lease_id))
                raise found
            origin = _Origin(
                session,
                made.lease_id,
                made.duration,
                requested_at + made.maximum,
                made.expires_at,
            )
            return Grant(found, _lease(origin, requested_at, made.duration), origin=origin)

    def renew(self, grant: Grant) -> Lease:
        """Extend the lease to its initial duration, or to what its maximum allows.

        Returns:
            The extended lease; not renewable, and perhaps not longer, at its maximum.

        Raises:
            LeaseLost: the lease is gone.
            AccessDenied: the identity may not renew leases.
            ProviderUnavailable: Infisical, or PostgreSQL behind it, does not answer.
            MalformedResponse: the reply is not Infisical's.
        """
        origin = self._origin(grant)
        if origin.owner.inherited:
            raise LeaseLost(f"{self.description}: the lease belongs to the parent process")
        session, ends_at = origin.owner, grant.lease.expires_at
        with session:
            now = self._clock.now()
            wanted = origin.initial_duration - (ends_at - now)
            possible = origin.extensible_until - ends_at - _SLACK
            seconds = max(math.ceil(min(wanted, possible)), _LEAST_TTL)
            try:
                requested_at, renewed = session.run(
                    lambda token: session.client.renew_lease(token, origin.lease_id, seconds)
                )
            except LeaseLost as error:
                if not is_at_maximum(error):
                    raise
                # The maximum was lowered, or a renewal whose reply was lost has come that far.
                origin.extensible_until = -math.inf
                return _lease(origin, now, ends_at - now)
            # Two instants of one clock, whatever that shows.
            ends_at += renewed - origin.expires_at
            origin.expires_at = renewed
            return _lease(origin, requested_at, ends_at - requested_at)

    def revoke(self, grant: Grant) -> None:
        """Revoke the lease; Infisical drops the user.

        Does nothing in a child of the process that fetched `grant`, and if the lease is gone.

        Raises:
            AccessDenied: the identity may not; the lease then ends at its own time.
            ProviderUnavailable: Infisical, or PostgreSQL behind it, does not answer, or the user
                could not be dropped; the message says why.
            MalformedResponse: the reply is not Infisical's.
        """
        origin = self._origin(grant)
        if origin.owner.inherited:
            return
        with origin.owner as session, contextlib.suppress(LeaseLost):
            session.run(lambda token: session.client.revoke_lease(token, origin.lease_id))

    def observe(self, report: Callable[[Event], None]) -> None:
        """Call `report` with a `ProviderRequest` for each request to Infisical."""
        self._own_session().report = report

    def close(self) -> None:
        """Revoke the access token, and close the sockets.

        Waits 10 s for a request in flight, and about as long for revoking, at most. Never raises.
        """
        self._own_session().close()

    def _origin(self, grant: Grant) -> _Origin:
        if not isinstance(grant.origin, _Origin):
            raise TypeError("the grant does not come from an InfisicalProvider")
        return grant.origin

    def _own_session(self) -> Session:
        """Return the session of this process: a fork's child shares no socket, lock or lease."""
        if self._session.inherited:
            # Kept alive: to finalize its sockets takes locks that are never released here.
            self._inherited.append(self._session)
            made = self._make_session()
            made.report = self._session.report
            self._session = made
        return self._session

    def _make_session(self) -> Session:
        client = InfisicalClient(
            self._address, self._place, self._name, verify=self._verify, clock=self._clock
        )
        return Session(client, self._log_in, self._clock, self.description)

    def _log_in(self, client: InfisicalClient) -> AccessToken | EphemeralCredsError:
        if self._secret is not None:
            return client.login(self._client_id, self._secret)
        assert self._secret_file is not None  # noqa: S101 - the constructor has checked it
        return client.login(self._client_id, read_secret(self._secret_file, "the client secret"))


def _lease(origin: _Origin, requested_at: float, duration: float) -> Lease:
    """Return the lease, renewable if its maximum leaves as much as a renewal adds at least."""
    left = origin.extensible_until - (requested_at + duration) - _SLACK
    return Lease(requested_at, duration, renewable=left >= _LEAST_TTL, lease_id=origin.lease_id)


def _address_from(environ: Mapping[str, str]) -> str:
    found = environ.get("INFISICAL_DOMAIN") or environ.get("INFISICAL_API_URL") or _CLOUD
    # As the command takes it, which some write with the path of the API.
    return found.rstrip("/").removesuffix("/api")
