"""The common part of tokens that are signed with AWS credentials, without a request."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ephemeral_creds.exceptions import ConfigurationError, EphemeralCredsError
from ephemeral_creds.providers.aws import find_region, find_signing_key, require_botocore
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Credentials, Secret
    from ephemeral_creds.providers.aws import AWSSession, SigningKey

__all__ = ["LIFETIME", "SignedTokenProvider"]

LIFETIME = 900
"""Seconds that a token works for: the longest of RDS, and what AWS's own tools ask of DSQL."""


class SignedTokenProvider(DatabaseTokenProvider):
    """What providers of signed tokens have in common.

    Args:
        username: the PostgreSQL role to log in as.
        hosts: the endpoints, each perhaps with a port.
        port: the port of the endpoints that name no other.
        region: their region; ``None`` takes it from the first one's name, or the configuration.
        session: where to take AWS credentials from.
        requires_tls: whether to refuse logins that are not encrypted.
        clock: where the time of a `fetch` comes from.

    Raises:
        ConfigurationError: botocore is not installed, or an argument cannot be right.
    """

    _in_hosts: ClassVar[str]
    """What the service is called in the names of its endpoints."""

    def __init__(
        self,
        username: str,
        hosts: Sequence[str],
        port: int,
        *,
        region: str | None,
        session: AWSSession | None,
        requires_tls: bool,
        clock: Clock | None,
    ) -> None:
        name = type(self).__name__
        require_botocore(name)
        if not username:
            raise ConfigurationError(f"{name}(username=): must name a PostgreSQL role")
        self._endpoints = [_endpoint(each, port) for each in hosts]
        if not self._endpoints:
            raise ConfigurationError(f"{name}(host=): name at least one endpoint")
        found = region or find_region(self._endpoints[0], self._in_hosts, session)
        if found is None:
            raise ConfigurationError(
                f"{name}: the region of {self._endpoints[0]} is not in its name: set region= or "
                "AWS_REGION"
            )
        self._region, self._session = found, session
        super().__init__(
            username,
            f"AWS credentials, for {', '.join(self._endpoints)} in {found}",
            requires_tls=requires_tls,
            clock=clock,
        )

    def _obtain(self) -> tuple[Credentials, float] | EphemeralCredsError:
        key = find_signing_key(self._session)
        if isinstance(key, EphemeralCredsError):
            return key
        passwords = tuple((endpoint, self._sign(key, endpoint)) for endpoint in self._endpoints)
        credentials = self._with(passwords[0][1])
        if len(passwords) > 1:
            credentials = replace(credentials, passwords=passwords)
        return credentials, min(float(LIFETIME), key.remaining)

    @abstractmethod
    def _sign(self, key: SigningKey, endpoint: str) -> Secret:
        """Return the token for an endpoint, which is ``name:port``."""


def _endpoint(text: str, port: int) -> str:
    """Return an endpoint with its port."""
    host, _, own = text.strip().partition(":")
    found = own or str(port)
    # A path is that of a socket, which no token is for.
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host) or not re.fullmatch(r"[0-9]{1,5}", found):
        raise ConfigurationError(f"{text!r} cannot be an endpoint: give its name, or name:port")
    return f"{host.lower()}:{found}"
