"""Tokens for Amazon Aurora DSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ephemeral_creds.providers.aws import presign
from ephemeral_creds.providers.tokens.base import role_and_arguments
from ephemeral_creds.providers.tokens.signed import LIFETIME, SignedTokenProvider
from ephemeral_creds.providers.url import FromURL, Key

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Secret
    from ephemeral_creds.providers.aws import AWSSession, SigningKey
    from ephemeral_creds.providers.url import Location

__all__ = ["AuroraDSQLProvider"]

_PORT = 5432
_ADMIN = "admin"
_URL_KEYS = {
    "host": Key("host", needed="the endpoint of the cluster"),
    "region": Key("region"),
}


class AuroraDSQLProvider(SignedTokenProvider, FromURL):
    """Tokens that Amazon Aurora DSQL takes for a password.

    See https://docs.aws.amazon.com/aurora-dsql/latest/userguide/SECTION_authentication-token.html.
    The same as `RDSIAMProvider`, for one endpoint, except what a token says: it allows connections
    to the cluster, as ``admin`` (``dsql:DbConnectAdmin``) or as any other role that the identity is
    mapped to (``dsql:DbConnect``). DSQL closes connections after an hour: give the pool a
    ``max_lifetime`` below that, such as 3000 seconds.

    Args:
        username: the PostgreSQL role to log in as.
        host: the endpoint of the cluster.
        region: its region; ``None`` takes it from the endpoint's name, else from ``AWS_REGION`` or
            the profile.
        session: a ``boto3.Session`` or ``botocore.session.Session`` to take AWS credentials from,
            at each token.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: botocore is not installed, or an argument cannot be right.
    """

    URL_SCHEME: ClassVar[str] = "dsql"
    _in_hosts: ClassVar[str] = "dsql"
    _refusal_hint: ClassVar[str] = (
        "allow dsql:DbConnect (for the role admin, dsql:DbConnectAdmin) on the cluster in IAM; map "
        "the identity to the role: AWS IAM GRANT ROLE TO 'ARN'; sign for the cluster's own "
        "endpoint and region; check this machine's clock"
    )

    def __init__(
        self,
        username: str,
        host: str,
        *,
        region: str | None = None,
        session: AWSSession | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Without TLS there is no DSQL.
        super().__init__(
            username, [host], _PORT, region=region, session=session, requires_tls=True, clock=clock
        )

    @classmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        return role_and_arguments(location, _URL_KEYS)

    def _sign(self, key: SigningKey, endpoint: str) -> Secret:
        return presign(
            key,
            endpoint.partition(":")[0],
            {"Action": "DbConnectAdmin" if self._username == _ADMIN else "DbConnect"},
            service="dsql",
            region=self._region,
            expires=LIFETIME,
        )
