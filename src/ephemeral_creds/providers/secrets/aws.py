"""AWS Secrets Manager."""

from __future__ import annotations

import json
import math
import os
import re
import time
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds._values import Grant
from ephemeral_creds.events import SourceRecovered, SourceUnusable
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.providers.address import validate_address
from ephemeral_creds.providers.aws import (
    find_region,
    find_signing_key,
    host_of,
    new_session,
    require_botocore,
    sign,
)
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.fields import SecretFields
from ephemeral_creds.providers.http.failures import Service
from ephemeral_creds.providers.secrets.aws_replies import body_of
from ephemeral_creds.providers.secrets.base import (
    POLL_INTERVAL,
    Request,
    SecretProvider,
    SecretVersion,
    arguments_from,
)
from ephemeral_creds.providers.url import Key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.aws import AWSSession
    from ephemeral_creds.providers.fields import SecretFormat
    from ephemeral_creds.providers.url import Location

__all__ = ["SecretsManagerProvider"]

_SERVICE = Service(
    name="Secrets Manager",
    address="the region, the endpoint (AWS_ENDPOINT_URL_SECRETS_MANAGER) and the VPC's DNS",
    trust="set AWS_CA_BUNDLE to",
    files="that AWS_CA_BUNDLE names PEM certificates",
    values="the region, the endpoint and the name of the secret",
)
_NAME = re.compile(r"[A-Za-z0-9/_+=.@!:-]{1,2048}")
_ARN = re.compile(r"arn:[a-z0-9-]+:secretsmanager:([a-z0-9-]+):[0-9]+:secret:.+")
_ENDPOINTS = ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL")
_URL_KEYS = {"region": Key("region"), "endpoint": Key("endpoint")}

_CURRENT, _PREVIOUS = "AWSCURRENT", "AWSPREVIOUS"


class SecretsManagerProvider(SecretProvider):
    """A secret of AWS Secrets Manager, as its rotation templates write it: JSON, in text.

    See https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets.html. Needs the
    extra ``aws``: botocore finds AWS credentials where every AWS tool does, and signs with them.

    The version with the label ``AWSCURRENT`` is used, and read every `poll_interval` and whenever
    PostgreSQL refuses it. A rotation of a *single user* changes the password in place: open
    connections stay. One of *alternating users* brings another user: connections are replaced, new
    before old. Fields other than those of user name and password are ignored, such as ``host``.

    ``AWSPENDING``, whose password PostgreSQL may not know yet, is never used. ``AWSPREVIOUS`` is,
    as long as PostgreSQL refuses ``AWSCURRENT`` and accepts it: if a replica lags, or a rotation
    was written to one of the two only. `SourceUnusable` reports that.

    The credentials have no deadline. The date of the next rotation, if the identity may call
    ``DescribeSecret``, is when they are expected to end: the secret is read right after it, and
    `CredentialsEnding` reports a rotation that is late.

    Args:
        name: the name or the ARN of the secret.
        region: its region; ``None`` takes it from the ARN, else from ``AWS_REGION`` or the profile.
        session: a ``boto3.Session`` or ``botocore.session.Session`` to take AWS credentials from.
        fields: the secret's names for ``username`` and ``password``, or for ``url``, if they are
            not usual ones.
        username: the user name, if the secret has only a password.
        format: ``password``: the secret is the password itself, whatever it looks like.
        endpoint: the address of the service, such as that of a VPC endpoint without private DNS;
            ``None`` takes it from ``AWS_ENDPOINT_URL_SECRETS_MANAGER`` or ``AWS_ENDPOINT_URL``,
            else from the region.
        poll_interval: seconds between two reads, each of which is one request; less, at random,
            by up to `RefreshPolicy.jitter`.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: botocore is not installed, or an argument cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "aws-secret"

    def __init__(
        self,
        name: str,
        *,
        region: str | None = None,
        session: AWSSession | None = None,
        fields: Mapping[str, str] | None = None,
        username: str | None = None,
        format: SecretFormat = "auto",  # noqa: A002 - what it is called everywhere
        endpoint: str | None = None,
        poll_interval: float = POLL_INTERVAL,
        clock: Clock | None = None,
    ) -> None:
        require_botocore("SecretsManagerProvider")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of a secret in AWS Secrets Manager: it has letters, "
                "digits and /_+=.@- only; or give its ARN"
            )
        arn = _ARN.fullmatch(name)
        if arn is not None and region not in {None, arn[1]}:
            raise ConfigurationError(f"region={region!r} is not that of the ARN, {arn[1]}")
        found = region or (arn[1] if arn is not None else find_region("", "", session))
        if found is None:
            raise ConfigurationError(
                f"SecretsManagerProvider({name!r}): the region is not known: set region=, "
                "AWS_REGION or that of the profile"
            )
        self.region = found
        self._session = session
        address = endpoint or next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
        address = address or f"https://{host_of('secretsmanager', found)}"
        self._url = f"{validate_address(address, 'endpoint=')}/"
        # The ids of the versions that PostgreSQL refuses, AWSCURRENT's among them.
        self._refused: frozenset[str] = frozenset()
        self._uses_previous = False
        # The version and its next rotation, in seconds since 1970.
        self._next: tuple[str, float] = ("", math.inf)
        super().__init__(
            name,
            _SERVICE,
            fields=SecretFields(fields, username=username, format=format),
            poll_interval=poll_interval,
            clock=clock,
            verify=os.environ.get("AWS_CA_BUNDLE") or None,
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        if not location.name and not location.path.strip("/"):
            raise location.error("the name of the secret", "is missing: aws-secret://NAME?region=…")
        return arguments_from(location, _URL_KEYS)

    @property
    def description(self) -> str:
        """The name of the secret, and its region."""
        return f"secret {self.name!r} in AWS Secrets Manager, {self.region}"

    def fetch_instead(self, refused: Grant) -> Grant:
        """Read the secret, and its previous version if `refused` is the current one.

        Raises what `fetch` does.
        """
        with self._exclusive():
            if isinstance(refused.origin, str):
                self._refused |= {refused.origin}
            outcome = self._attempt()
        return value_of(outcome)

    def _after_fork(self) -> None:
        super()._after_fork()
        # Its locks may have been held at the moment of the fork.
        self._own_session: AWSSession | None = None

    def _attempt(self) -> Grant | EphemeralCredsError:
        requested_at = self._clock.now()
        current = self._read(_CURRENT)
        if isinstance(current, EphemeralCredsError):
            return current
        rotates_in = self._rotates_in(current.id)
        version = current
        if current.id in self._refused:
            version = self._previous_to(current) or current
        else:
            self._refused = frozenset()
        self._note_use(version, current)
        lease = self._lease(requested_at, rotates_in)
        return Grant(version.credentials, lease, origin=version.id)

    def _previous_to(self, current: SecretVersion) -> SecretVersion | None:
        """Return the previous version, if PostgreSQL may accept it."""
        previous = self._read(_PREVIOUS)
        # Without one, or without the right to read it, the current one is all there is.
        if isinstance(previous, EphemeralCredsError) or previous.id in self._refused:
            return None
        return None if previous.credentials == current.credentials else previous

    def _note_use(self, version: SecretVersion, current: SecretVersion) -> None:
        """Report if the use of the previous version begins or ends."""
        uses_previous = version is not current
        if uses_previous and not self._uses_previous:
            self._events.add(
                SourceUnusable(
                    error=f"{self.description}: PostgreSQL refuses {_CURRENT}, version "
                    f"{current.id}, so that {_PREVIOUS} is used: check the last rotation, and the "
                    "lag of replicas"
                )
            )
        elif self._uses_previous and not uses_previous:
            self._events.add(SourceRecovered())
        self._uses_previous = uses_previous

    # -- requests --------------------------------------------------------------------------

    def _read(self, label: str) -> SecretVersion | EphemeralCredsError:
        """Read the version with a label."""
        # Never without one: the service would choose, and tests should see what is asked for.
        body = self._call("GetSecretValue", f"{label} of secret {self.name!r}", VersionStage=label)
        if isinstance(body, EphemeralCredsError):
            return body
        if "SecretBinary" in body:
            return ConfigurationError(
                f"{self.description} is binary: write it as text, into SecretString"
            )
        return self._version(body.get("VersionId"), body.get("SecretString"))

    def _rotates_in(self, version: str) -> float:
        """Return the seconds until the secret is rotated; ``inf`` if that is not known, or late."""
        known, at = self._next
        now = time.time()
        if version != known or at <= now:
            found = self._call("DescribeSecret", f"secret {self.name!r}")
            if isinstance(found, ProviderUnavailable | MalformedResponse):
                return math.inf
            # A right that is not needed; without it the date is not known.
            date = None if isinstance(found, EphemeralCredsError) else found.get("NextRotationDate")
            at = float(date) if isinstance(date, int | float) else math.inf
            self._next = version, at
        return at - now if at > now else math.inf

    def _call(
        self, action: str, what: str, **asked: str
    ) -> Mapping[str, object] | EphemeralCredsError:
        if self._session is None and self._own_session is None:
            self._own_session = new_session()
        key = find_signing_key(self._session or self._own_session)
        if isinstance(key, EphemeralCredsError):
            return type(key)(f"{self.description} cannot be read: {key}")
        body = json.dumps({"SecretId": self.name, **asked})
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"secretsmanager.{action}",
        }
        request = Request(
            operation="read" if action == "GetSecretValue" else "describe",
            what=what,
            url=self._url,
            headers=sign(
                key, self._url, headers, body, service="secretsmanager", region=self.region
            ),
            method="POST",
            body=body,
        )
        outcome = self._ask(
            request, lambda reply, intro: body_of(reply, intro, action, self.name, self.region)
        )
        if isinstance(outcome, AccessDenied):
            # They are looked for again: a profile's file may have others by then.
            self._own_session = None
        return outcome
