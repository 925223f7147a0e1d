"""Credentials from HashiCorp Vault or OpenBao; the only importer of hvac and requests."""

from ephemeral_creds.providers.vault.auth import (
    AppRoleAuth,
    AuthMethod,
    KubernetesAuth,
    TokenAuth,
)
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.dynamic import VaultDynamicProvider
from ephemeral_creds.providers.vault.static import VaultStaticProvider

__all__ = [
    "AppRoleAuth",
    "AuthMethod",
    "KubernetesAuth",
    "TokenAuth",
    "VaultConfig",
    "VaultDynamicProvider",
    "VaultStaticProvider",
]
