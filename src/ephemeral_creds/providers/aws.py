"""AWS credentials and signatures, by botocore."""

from __future__ import annotations

import logging
import math
import os
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.observers import where_raised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "AWSSession",
    "SigningKey",
    "find_region",
    "find_signing_key",
    "presign",
    "require_botocore",
    "unlogged",
]

# Seconds, for requests that botocore makes to get credentials: STS, SSO. Its own limits add up to
# minutes; the next attempt comes by itself.
_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10

# A region is next to the service's name in its hosts: NAME.eu-central-1.rds.amazonaws.com, and in
# China NAME.rds.cn-north-1.amazonaws.com.cn.
_REGION = r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]+"

_DOMAIN = "amazonaws.com"
# Of the partitions that have another one, see
# https://docs.aws.amazon.com/general/latest/gr/rande.html and botocore's endpoints.json.
_DOMAINS = {
    "aws-cn": "amazonaws.com.cn",
    "aws-eusc": "amazonaws.eu",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-iso-e": "cloud.adc-e.uk",
    "aws-iso-f": "csp.hci.ic.gov",
}

# These are about a setting, and their texts name files, profiles and variables only.
_OF_CONFIGURATION = (
    *("ProfileNotFound", "PartialCredentialsError", "ConfigNotFound", "ConfigParseError"),
    *("InvalidConfigError", "InfiniteLoopConfigError", "UnknownCredentialError"),
    *("SSOTokenLoadError", "UnauthorizedSSOTokenError", "PendingAuthorizationExpiredError"),
)


class AWSSession(Protocol):
    """A ``boto3.Session`` or a ``botocore.session.Session``, as far as credentials go."""

    def get_credentials(self) -> object:
        """Return what to sign with; ``None`` if there is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SigningKey:
    """AWS credentials.

    Attributes:
        access_key: the key's id, which is no secret.
        remaining: seconds for which they work; ``inf`` if that is not known.
        frozen: botocore's own, which do not change.
    """

    access_key: str
    remaining: float
    frozen: object = field(repr=False)


def require_botocore(what: str) -> None:
    """Raise `ConfigurationError` if botocore is not installed; `what` needs it."""
    if find_spec("botocore") is None:
        raise ConfigurationError(f"{what} needs botocore: install ephemeral-creds[aws]")


def find_signing_key(session: AWSSession | None) -> SigningKey | EphemeralCredsError:
    """Find AWS credentials, or return why there are no credentials.

    Args:
        session: where to look; ``None`` looks where every AWS tool does, each time: in the
            environment, a profile, a web identity, a container, an instance.
    """
    import botocore.session

    chain = ""
    try:
        if session is None:
            session = new_session()
        if isinstance(session, botocore.session.Session):
            chain = _chain_of(session)
        found: Any = session.get_credentials()
        if found is not None:
            # A user's session may return what has no need to be frozen.
            freeze = getattr(found, "get_frozen_credentials", lambda: found)
            frozen = freeze()
            return SigningKey(str(frozen.access_key), _remaining(found), frozen)
    except Exception as error:  # noqa: BLE001 - many sources, many errors, some with secrets
        return _translated(error, chain)
    return ConfigurationError(
        f"no AWS credentials were found{chain}: set AWS_PROFILE or a role of the pod, the task or "
        "the instance, or pass session="
    )


def _bounded() -> object:
    from botocore.config import Config

    return Config(
        connect_timeout=_CONNECT_TIMEOUT, read_timeout=_READ_TIMEOUT, retries={"max_attempts": 1}
    )


def _chain_of(session: Any) -> str:
    providers = session.get_component("credential_provider").providers
    return f" (searched: {', '.join(each.METHOD for each in providers)})"


def _remaining(credentials: Any) -> float:
    """Return for how many seconds credentials work, to the second.

    botocore tells only whether they must be refreshed a number of seconds before their end.
    """
    needed = getattr(credentials, "refresh_needed", None)
    if needed is None or not needed(refresh_in=7 * 86400):
        return math.inf
    low, high = 0, 7 * 86400
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(refresh_in=middle) else (middle, high)
    return float(low)


def _translated(error: Exception, chain: str) -> EphemeralCredsError:
    kind = type(error).__name__
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    operation = getattr(error, "operation_name", "")
    if code and operation:
        what = f"AWS credentials{chain}: {operation} answered {code}"
        if re.search(r"Denied|Unauthorized|Invalid|NotFound|Expired|Malformed", str(code)):
            return AccessDenied(
                f"{what}: check the role, its trust policy, and the identity that assumes it"
            )
        return ProviderUnavailable(what)
    if kind in _OF_CONFIGURATION:
        return ConfigurationError(f"AWS credentials{chain}: {error}")
    return ProviderUnavailable(f"AWS credentials{chain}: {where_raised(error)}")


def find_region(host: str, service: str, session: AWSSession | None) -> str | None:
    """Return the region of a host's name or, if that has none, of the configuration.

    Args:
        host: a host of the service.
        service: the service's name in its hosts, ``rds`` for example.
        session: a user's session, whose region counts more than the environment's.
    """
    found = re.search(rf"\.(?:({_REGION})\.{service}|{service}\.({_REGION}))\.", host)
    if found is not None:
        return found[1] or found[2]
    import botocore.session

    configured: object = getattr(session, "region_name", None)
    if configured is None:
        if isinstance(session, botocore.session.Session):
            configured = session.get_config_variable("region")
        # What Lambda and others set; botocore knows AWS_DEFAULT_REGION only.
        configured = configured or os.environ.get("AWS_REGION")
        configured = configured or botocore.session.Session().get_config_variable("region")
    return configured if isinstance(configured, str) else None


def presign(
    key: SigningKey,
    host: str,
    parameters: Mapping[str, str],
    *,
    service: str,
    region: str,
    expires: int,
) -> Secret:
    """Return a signed URL without its scheme, which a database takes for a password.

    Args:
        key: what to sign with.
        host: host and, if it is a part of what is signed, port.
        parameters: of the request: its action, and the user perhaps.
        service: what the signature is for, such as ``rds-db``.
        region: so.
        expires: seconds for which the URL works.
    """
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method="GET", url=f"https://{host}/", params=dict(parameters))
    with unlogged():
        SigV4QueryAuth(key.frozen, service, region, expires=expires).add_auth(request)
    return Secret(str(request.url).removeprefix("https://"))


# botocore writes all that a signature is made of, and the signature, into its log at DEBUG.
_signing: ContextVar[bool] = ContextVar("ephemeral_creds_signing", default=False)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _signing.get()


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep what is signed in the block out of botocore's log."""
    # Adding it twice changes nothing.
    logging.getLogger("botocore.auth").addFilter(_is_not_ours)
    token = _signing.set(True)
    try:
        yield
    finally:
        _signing.reset(token)


def new_session() -> AWSSession:
    """Return a session that finds AWS credentials where every AWS tool does, in bounded time."""
    import botocore.session

    made = botocore.session.Session()
    made.set_default_client_config(_bounded())
    session: AWSSession = made
    return session


def host_of(service: str, region: str) -> str:
    """Return the host of a service in a region.

    Raises:
        ConfigurationError: there is no such region.
    """
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        partition = Session().get_partition_for_region(region)
    except BotoCoreError:
        raise ConfigurationError(f"botocore knows no AWS region {region!r}") from None
    return f"{service}.{region}.{_DOMAINS.get(partition, _DOMAIN)}"


def sign(
    key: SigningKey, url: str, headers: Mapping[str, str], body: str, *, service: str, region: str
) -> dict[str, str | Secret]:
    """Return the headers of a POST request, and those that sign it."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method="POST", url=url, data=body, headers=dict(headers))
    with unlogged():
        SigV4Auth(key.frozen, service, region).add_auth(request)
    return {
        name: value if name in headers else Secret(value) for name, value in request.headers.items()
    }
