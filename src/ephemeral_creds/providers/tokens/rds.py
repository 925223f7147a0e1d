"""Tokens for Amazon RDS and Aurora."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ephemeral_creds.providers.aws import presign
from ephemeral_creds.providers.tokens.base import role_and_arguments
from ephemeral_creds.providers.tokens.signed import LIFETIME, SignedTokenProvider
from ephemeral_creds.providers.url import FromURL, Key, Location

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.aws import AWSSession, SigningKey

__all__ = ["RDSIAMProvider"]

_PORT = 5432
_URL_KEYS = {
    "host": Key("host", needed="the endpoint of the instance, the cluster or the proxy"),
    "port": Key("port", Location.count),
    "region": Key("region"),
    "require_tls": Key("requires_tls", Location.flag),
}


class RDSIAMProvider(SignedTokenProvider, FromURL):
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
    _in_hosts: ClassVar[str] = "rds"
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
        super().__init__(
            username,
            [host] if isinstance(host, str) else host,
            port,
            region=region,
            session=session,
            requires_tls=requires_tls,
            clock=clock,
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        arguments = role_and_arguments(location, _URL_KEYS)
        return {**arguments, "host": arguments["host"].split(",")}

    def _sign(self, key: SigningKey, endpoint: str) -> Secret:
        return presign(
            key,
            endpoint,
            {"Action": "connect", "DBUser": self._username},
            service="rds-db",
            region=self._region,
            expires=LIFETIME,
        )
