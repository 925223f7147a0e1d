"""Tokens for Amazon RDS and Aurora, signed with AWS credentials; no request is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.aws import (
    AWSSession,
    SigningKey,
    find_region,
    find_signing_key,
    presign,
    require_botocore,
)
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider
from ephemeral_creds.providers.url import FromURL, Key, Location

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials, Secret

__all__ = ["RDSIAMProvider"]

# Seconds: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
_LIFETIME = 900
_PORT = 5432
_URL_KEYS = {
    "host": Key("host", needed="the endpoint of the instance, the cluster or the proxy"),
    "port": Key("port", Location.count),
    "region": Key("region"),
    "require_tls": Key("requires_tls", Location.flag),
}


class RDSIAMProvider(DatabaseTokenProvider, FromURL):
    """Tokens that Amazon RDS, Aurora and RDS Proxy take for a password (IAM authentication).

    See https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html. Needs
    the extra ``aws``: botocore finds AWS credentials where every AWS tool does (environment,
    profile, web identity, container, instance), for each token, and signs with them. A token is
    good for logins within 15 minutes, or until the AWS credentials end if that is earlier.

    A token is for one host and port. With several, a pool whose ``conninfo`` has several hosts
    sends each its own.

    Args:
        username: the PostgreSQL role to log in as; it has been granted ``rds_iam``.
        host: the endpoint, by the name that AWS gave it, whatever name the pool connects to; or
            several, each perhaps with a port: ``name:port``.
        port: the port of the endpoints that name no other.
        region: their region; ``None`` takes it from the name of the first endpoint, else from
            ``AWS_REGION`` or the profile.
        session: a ``boto3.Session`` or ``botocore.session.Session`` to take AWS credentials from,
            at each token.
        requires_tls: whether to refuse logins that are not encrypted; see `TokenProvider`.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: botocore is not installed, or an argument cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "rds-iam"
    _refusal_hint: ClassVar[str] = (
        "check that the instance has IAM authentication enabled; GRANT rds_iam TO the role; allow "
        "rds-db:connect in IAM for arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE_ID/ROLE; sign for "
        "the endpoint, port and region that AWS gave, not for another name of it; check this "
        "machine's clock"
    )

    def __init__(
        self,
        username: str,
        host: str | Sequence[str],
        port: int = _PORT,
        *,
        region: str | None = None,
        session: AWSSession | None = None,
        requires_tls: bool = True,
        clock: Clock | None = None,
    ) -> None:
        require_botocore("RDSIAMProvider")
        named = [host] if isinstance(host, str) else list(host)
        self._endpoints = [_endpoint(each, port) for each in named]
        if not self._endpoints:
            raise ConfigurationError("RDSIAMProvider(host=): name at least one endpoint")
        found = region or find_region(f".{self._endpoints[0].partition(':')[0]}.", "rds", session)
        if found is None:
            raise ConfigurationError(
                f"RDSIAMProvider: the region of {self._endpoints[0]} is not in its name: set "
                "region= or AWS_REGION"
            )
        self._region, self._session = found, session
        super().__init__(
            username,
            f"AWS credentials, for {', '.join(self._endpoints)} in {found}",
            requires_tls=requires_tls,
            clock=clock,
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        if not location.name or location.path.strip("/"):
            raise location.error("the role", "is missing or a path: rds-iam://ROLE?host=…")
        location.expect(_URL_KEYS)
        arguments = location.arguments(_URL_KEYS)
        return {"username": location.name, **arguments, "host": arguments["host"].split(",")}

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        key = find_signing_key(self._session)
        if isinstance(key, EphemeralCredsError):
            return key
        passwords = tuple((endpoint, self._sign(key, endpoint)) for endpoint in self._endpoints)
        credentials = self._with(passwords[0][1])
        if len(passwords) > 1:
            credentials = replace(credentials, passwords=passwords)
        return credentials, min(float(_LIFETIME), key.remaining)

    def _sign(self, key: SigningKey, endpoint: str) -> Secret:
        return presign(
            key,
            endpoint,
            {"Action": "connect", "DBUser": self._username},
            service="rds-db",
            region=self._region,
            expires=_LIFETIME,
        )


def _endpoint(text: str, port: int) -> str:
    """Return an endpoint with its port."""
    host, _, own = text.strip().partition(":")
    found = own or str(port)
    # A path is that of a socket, which no token is for.
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host) or not re.fullmatch(r"[0-9]{1,5}", found):
        raise ConfigurationError(f"{text!r} cannot be an endpoint: give its name, or name:port")
    return f"{host.lower()}:{found}"
