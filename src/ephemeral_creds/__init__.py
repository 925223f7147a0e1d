"""PostgreSQL credentials that live an hour, and a psycopg pool that never notices.

Import everything from here. What needs hvac, watchdog or tenacity is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds._clock import Clock, SystemClock
    from ephemeral_creds._values import Credentials, Grant, Lease, Secret
    from ephemeral_creds.events import Event, Observer, Problem
    from ephemeral_creds.exceptions import (
        AccessDenied,
        ConfigurationError,
        CredentialsExpired,
        EphemeralCredsError,
        KeeperClosed,
        LeaseLost,
        MalformedResponse,
        NoCredentials,
        NotReady,
        ProviderError,
        ProviderUnavailable,
    )
    from ephemeral_creds.keeper.consumer import KeeperStatus
    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
    from ephemeral_creds.keeper.registry import close_on_sigterm
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import JSONLogObserver, log_event
    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool
    from ephemeral_creds.pool._sync.pool import RotatingConnectionPool
    from ephemeral_creds.pool.errors import (
        CheckoutFailed,
        DatabaseUnreachable,
        LoginRefused,
        ServerRefused,
    )
    from ephemeral_creds.pool.policy import RotationPolicy
    from ephemeral_creds.pool.retry import retry_on_rotation
    from ephemeral_creds.pool.status import PoolStatus
    from ephemeral_creds.providers.base import CredentialProvider
    from ephemeral_creds.providers.file import FilePolicy, FileProvider
    from ephemeral_creds.providers.fixed import FixedProvider
    from ephemeral_creds.providers.url import provider_from_url
    from ephemeral_creds.providers.vault import (
        AgentAuth,
        AppRoleAuth,
        AuthMethod,
        AWSAuth,
        AzureAuth,
        CertAuth,
        GCPAuth,
        JWTAuth,
        KubernetesAuth,
        LDAPAuth,
        TokenAuth,
        UserpassAuth,
        VaultConfig,
        VaultDynamicProvider,
        VaultStaticProvider,
    )

__all__ = [
    "AWSAuth",
    "AccessDenied",
    "AgentAuth",
    "AppRoleAuth",
    "AsyncCredentialKeeper",
    "AsyncRotatingConnectionPool",
    "AuthMethod",
    "AzureAuth",
    "CertAuth",
    "CheckoutFailed",
    "Clock",
    "ConfigurationError",
    "CredentialKeeper",
    "CredentialProvider",
    "Credentials",
    "CredentialsExpired",
    "DatabaseUnreachable",
    "EphemeralCredsError",
    "Event",
    "FilePolicy",
    "FileProvider",
    "FixedProvider",
    "GCPAuth",
    "Grant",
    "JSONLogObserver",
    "JWTAuth",
    "KeeperClosed",
    "KeeperStatus",
    "KubernetesAuth",
    "LDAPAuth",
    "Lease",
    "LeaseLost",
    "LoginRefused",
    "MalformedResponse",
    "NoCredentials",
    "NotReady",
    "Observer",
    "PoolStatus",
    "Problem",
    "ProviderError",
    "ProviderUnavailable",
    "RefreshPolicy",
    "RotatingConnectionPool",
    "RotationPolicy",
    "Secret",
    "ServerRefused",
    "SystemClock",
    "TokenAuth",
    "UserpassAuth",
    "VaultConfig",
    "VaultDynamicProvider",
    "VaultStaticProvider",
    "close_on_sigterm",
    "log_event",
    "provider_from_url",
    "retry_on_rotation",
]

_HOMES = {
    "_clock": ("Clock", "SystemClock"),
    "keeper.keeper": ("CredentialKeeper",),
    "keeper.keeper_async": ("AsyncCredentialKeeper",),
    "observers": ("JSONLogObserver", "log_event"),
    "lifecycle.policy": ("RefreshPolicy",),
    "pool.errors": ("CheckoutFailed", "DatabaseUnreachable", "LoginRefused", "ServerRefused"),
    "pool.policy": ("RotationPolicy",),
    "keeper.registry": ("close_on_sigterm",),
    "keeper.consumer": ("KeeperStatus",),
    "pool.retry": ("retry_on_rotation",),
    "_values": ("Credentials", "Grant", "Lease", "Secret"),
    "events": ("Event", "Observer", "Problem"),
    "exceptions": (
        "AccessDenied",
        "ConfigurationError",
        "CredentialsExpired",
        "EphemeralCredsError",
        "KeeperClosed",
        "LeaseLost",
        "MalformedResponse",
        "NoCredentials",
        "NotReady",
        "ProviderError",
        "ProviderUnavailable",
    ),
    "pool.status": ("PoolStatus",),
    "pool._sync.pool": ("RotatingConnectionPool",),
    "pool._async.pool": ("AsyncRotatingConnectionPool",),
    "providers.base": ("CredentialProvider",),
    "providers.url": ("provider_from_url",),
    "providers.file": ("FilePolicy", "FileProvider"),
    "providers.fixed": ("FixedProvider",),
    "providers.vault": (
        "AWSAuth",
        "AgentAuth",
        "AppRoleAuth",
        "AuthMethod",
        "AzureAuth",
        "CertAuth",
        "GCPAuth",
        "JWTAuth",
        "KubernetesAuth",
        "LDAPAuth",
        "TokenAuth",
        "UserpassAuth",
        "VaultConfig",
        "VaultDynamicProvider",
        "VaultStaticProvider",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        if error.name is not None:
            raise
        # psycopg has no other word for it than an ImportError without a name.
        raise ImportError(
            "psycopg finds no libpq, PostgreSQL's client library: install the system's (libpq5 on "
            "Debian, libpq on Alpine and Homebrew), or pip install 'psycopg[binary]', which brings "
            f"its own. psycopg says: {' '.join(str(error).split())}"
        ) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
