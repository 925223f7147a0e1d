"""PostgreSQL credentials that live an hour, and a psycopg pool that never notices.

Import everything from here. What needs hvac, watchdog or tenacity is imported on first use.
"""

from __future__ import annotations

import importlib

# Every public name, and the module that it is imported from on first use. `nox -s twins` writes
# __init__.pyi from this, which type checkers read.
_HOMES = {
    "AWSAuth": "providers.vault",
    "AccessDenied": "exceptions",
    "AgentAuth": "providers.vault",
    "AlloyDBIAMProvider": "providers.tokens.google",
    "AppRoleAuth": "providers.vault",
    "AsyncCredentialKeeper": "keeper.keeper_async",
    "AsyncRotatingConnectionPool": "pool._async.pool",
    "AsyncRotatingNullConnectionPool": "pool._async.null_pool",
    "AuroraDSQLProvider": "providers.tokens.dsql",
    "AuthMethod": "providers.vault",
    "AzureAuth": "providers.vault",
    "AzureKeyVaultProvider": "providers.secrets.azure",
    "CertAuth": "providers.vault",
    "CheckoutFailed": "pool.errors",
    "Clock": "_clock",
    "CloudSQLIAMProvider": "providers.tokens.google",
    "ConfigurationError": "exceptions",
    "Consumer": "keeper.consumer",
    "CredentialKeeper": "keeper.keeper",
    "CredentialProvider": "providers.base",
    "Credentials": "_values",
    "CredentialsExpired": "exceptions",
    "CredentialsFile": "keeper.credentials_file",
    "DatabaseUnreachable": "pool.errors",
    "EntraProvider": "providers.tokens.entra",
    "EphemeralCredsError": "exceptions",
    "Event": "events",
    "FilePolicy": "providers.file",
    "FileProvider": "providers.file",
    "FixedProvider": "providers.fixed",
    "GCPAuth": "providers.vault",
    "GoogleSecretManagerProvider": "providers.secrets.google",
    "Grant": "_values",
    "InfisicalProvider": "providers.infisical",
    "JSONLogObserver": "observers",
    "JWTAuth": "providers.vault",
    "Keeper": "keeper.consumer",
    "KeeperClosed": "exceptions",
    "KeeperStatus": "keeper.status",
    "KubernetesAuth": "providers.vault",
    "LDAPAuth": "providers.vault",
    "LakebaseProvider": "providers.tokens.lakebase",
    "Lease": "_values",
    "LeaseLost": "exceptions",
    "LoginFailure": "lifecycle.refusals",
    "LoginRefused": "pool.errors",
    "MalformedResponse": "exceptions",
    "NoCredentials": "exceptions",
    "NotReady": "exceptions",
    "Observer": "observers",
    "PoolStatus": "pool.status",
    "Problem": "events",
    "ProviderError": "exceptions",
    "ProviderUnavailable": "exceptions",
    "RDSIAMProvider": "providers.tokens.rds",
    "RefreshPolicy": "lifecycle.policy",
    "RotatingConnectionPool": "pool._sync.pool",
    "RotatingNullConnectionPool": "pool._sync.null_pool",
    "RotationPolicy": "pool.policy",
    "Secret": "_values",
    "SecretsManagerProvider": "providers.secrets.aws",
    "ServerRefused": "pool.errors",
    "Session": "keeper.session",
    "Sessions": "keeper.sessions",
    "SystemClock": "_clock",
    "TokenAuth": "providers.vault",
    "TokenProvider": "providers.tokens.provider",
    "UserpassAuth": "providers.vault",
    "VaultConfig": "providers.vault",
    "VaultDynamicProvider": "providers.vault",
    "VaultKVProvider": "providers.vault",
    "VaultStaticProvider": "providers.vault",
    "close_on_sigterm": "keeper.registry",
    "log_event": "observers",
    "provider_from_url": "providers.url",
    "retry_on_rotation": "pool.retry",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
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
