"""The requests to Infisical that this library makes, each bounded in time and sent once."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from ephemeral_creds._values import Secret
from ephemeral_creds.events import ProviderRequest
from ephemeral_creds.exceptions import EphemeralCredsError, ProviderUnavailable
from ephemeral_creds.providers.http.failures import Service, outcome_of
from ephemeral_creds.providers.http.rest import RestClient, bearer, malformed
from ephemeral_creds.providers.infisical import replies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.fields import SecretFields

__all__ = ["InfisicalClient", "Place"]

_T = TypeVar("_T")
_API = "/api/v1"
# It gives PostgreSQL 10 s to accept a connection, for which it waits before it answers. A client
# that gives up sooner leaves a user behind that is created nevertheless.
_CREATE = (5.0, 60.0)
# Revoking must never hold up a shutdown: leases and tokens expire by themselves.
_REVOKE = (5.0, 10.0)
_PENDING = 256
_SERVICE = Service(
    name="Infisical",
    address="the address (INFISICAL_DOMAIN)",
    trust="set verify (cacert in a URL), or REQUESTS_CA_BUNDLE, to",
    files="the files that verify and REQUESTS_CA_BUNDLE name",
    values="the address and the client id",
    in_doubt="Infisical may have carried out the request",
)
_DENIED = (
    "the identity's role in the project needs the action 'Lease' on dynamic secrets of this "
    "environment and path"
)
_FAILED = (
    "its log says why: check that it reaches PostgreSQL, and the SQL statements of the dynamic "
    "secret"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dynamic secret is.

    Attributes:
        project: the slug of the project.
        environment: the slug of the environment.
        path: the folder.
    """

    project: str
    environment: str
    path: str

    @property
    def fields(self) -> dict[str, object]:
        """What each request says of it."""
        return {
            "projectSlug": self.project,
            "environmentSlug": self.environment,
            "path": self.path,
        }

    def __str__(self) -> str:
        return f"{self.project}/{self.environment}{self.path}"


class InfisicalClient:
    """A connection to one Infisical; every method returns a value or the error in its place.

    See https://infisical.com/docs/api-reference/endpoints/dynamic-secrets/create-lease and the
    pages beside it. Not thread-safe: its user holds a lock.

    Args:
        address: scheme, host and port.
        place: where the dynamic secret is.
        name: its name.
        verify: a file or directory of CAs, in place of the environment's.
        clock: gives the durations in events.
    """

    def __init__(
        self, address: str, place: Place, name: str, *, verify: str | None, clock: Clock
    ) -> None:
        self._address, self._place, self._name = address, place, name
        self._clock = clock
        self._creating = RestClient(_SERVICE, verify=verify, timeout=_CREATE)
        self._revoking = RestClient(_SERVICE, verify=verify, timeout=_REVOKE)
        self._events: deque[ProviderRequest] = deque(maxlen=_PENDING)

    def take_events(self) -> list[ProviderRequest]:
        """Return the events of the requests since the last call."""
        taken = []
        while self._events:
            taken.append(self._events.popleft())
        return taken

    def close(self) -> None:
        """Close the sockets. A later request opens new ones."""
        self._creating.close()
        self._revoking.close()

    def login(
        self, client_id: str, client_secret: Secret
    ) -> replies.AccessToken | EphemeralCredsError:
        """Log in by universal auth."""
        return self._ask(
            ("login", "an access token"),
            ("POST", "/auth/universal-auth/login"),
            {"clientId": client_id, "clientSecret": client_secret},
            replies.access_token,
            denied="check the client id, and whether the client secret is revoked, expired or used "
            "up",
            missing="check the client id",
        )

    def revoke_token(self, token: Secret) -> EphemeralCredsError | None:
        """Revoke an access token; its leases live on."""
        return self._ask(
            ("revoke-token", "a revocation of the access token"),
            ("POST", "/auth/token/revoke"),
            {"accessToken": token},
            lambda _: None,
        )

    def create_lease(
        self, token: Secret, ttl: str | None, fields: SecretFields
    ) -> replies.DynamicLease | EphemeralCredsError:
        """Mint credentials, which live for `ttl`; ``None`` for the dynamic secret's default."""
        body: dict[str, object] = {"dynamicSecretName": self._name, **self._place.fields}
        if ttl is not None:
            body["ttl"] = ttl
        return self._ask(
            ("mint", f"a lease of dynamic secret {self._name!r} in {self._place}"),
            ("POST", "/dynamic-secrets/leases"),
            body,
            lambda reply: replies.created(reply, fields, f"{self._name!r} in {self._place}", ttl),
            token=token,
        )

    def renew_lease(
        self, token: Secret, lease_id: str, seconds: int
    ) -> float | EphemeralCredsError:
        """Add `seconds`, 60 at least, to the end of a lease; return the new one, since 1970."""
        return self._ask(
            ("renew", f"a renewal of lease {_shorten(lease_id)}"),
            ("POST", f"/dynamic-secrets/leases/{quote(lease_id, safe='')}/renew"),
            {**self._place.fields, "ttl": f"{seconds}s"},
            replies.renewed,
            token=token,
            lease_id=lease_id,
        )

    def revoke_lease(self, token: Secret, lease_id: str) -> EphemeralCredsError | None:
        """Revoke a lease, and drop its user."""
        return self._ask(
            ("revoke", f"a revocation of lease {_shorten(lease_id)}"),
            ("DELETE", f"/dynamic-secrets/leases/{quote(lease_id, safe='')}"),
            {**self._place.fields, "isForced": False},
            replies.revoked,
            token=token,
            lease_id=lease_id,
        )

    def _ask(
        self,
        operation: tuple[str, str],
        request: tuple[str, str],
        body: Mapping[str, object],
        parse: Callable[[Mapping[str, object]], _T],
        *,
        token: Secret | None = None,
        lease_id: str = "",
        denied: str = _DENIED,
        missing: str = "check the names of the project, the environment, the folder and the "
        "dynamic secret",
    ) -> _T | EphemeralCredsError:
        """Send one request and return its parsed reply or its error; raises nothing."""
        name, what = operation
        intro = f"Infisical at {self._address}, asked for {what},"
        method, path = request
        headers: dict[str, str | Secret] = {"Content-Type": "application/json"}
        secrets = [value for value in body.values() if isinstance(value, Secret)]
        if token is not None:
            headers |= bearer(token)
            secrets.append(token)
        client = self._revoking if name.startswith("revoke") else self._creating
        sent_at = self._clock.now()
        reply = client.send(
            intro, method, f"{self._address}{_API}{path}", headers=headers, body=_encoded(body)
        )
        outcome: _T | EphemeralCredsError
        if isinstance(reply, EphemeralCredsError):
            outcome = reply
        elif not 200 <= reply.status < 300:
            outcome = replies.error_of(
                reply,
                intro,
                secrets,
                denied=denied,
                missing=missing,
                failed=_FAILED,
                of_lease=lease_id != "",
            )
        elif reply.body is None:
            outcome = malformed(intro, reply.status, reply.kind)
        else:
            try:
                outcome = parse(reply.body)
            except replies.Malformed as error:
                outcome = malformed(intro, reply.status, str(error))
            except replies.Failed as error:
                outcome = ProviderUnavailable(f"{intro}: {error}", status=reply.status)
        status = None if isinstance(reply, EphemeralCredsError) else reply.status
        self._record(name, outcome, status, lease_id, sent_at)
        return outcome

    def _record(
        self, name: str, outcome: object, status: int | None, lease_id: str, sent_at: float
    ) -> None:
        failed = isinstance(outcome, EphemeralCredsError)
        in_doubt = _SERVICE.in_doubt in str(outcome) if status is None else status < 300
        if isinstance(outcome, replies.DynamicLease):
            lease_id = outcome.lease_id
        self._events.append(
            ProviderRequest(
                operation=name,
                outcome=outcome_of(outcome, status, in_doubt=in_doubt),
                address=self._address,
                mount=str(self._place),
                role=self._name,
                lease=_shorten(lease_id),
                status=status,
                duration=max(0.0, self._clock.now() - sent_at),
                error=f"{type(outcome).__name__}: {outcome}" if failed else "",
            )
        )


def _encoded(body: Mapping[str, object]) -> Secret:
    return Secret(
        json.dumps({k: v.reveal() if isinstance(v, Secret) else v for k, v in body.items()})
    )


def _shorten(lease_id: str) -> str:
    """Return enough of an id to find the lease; it is useless without an access token."""
    return f"{lease_id[:8]}…" if len(lease_id) > 8 else lease_id
