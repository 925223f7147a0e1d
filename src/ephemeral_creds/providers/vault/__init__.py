"""Credentials from HashiCorp Vault or OpenBao; the only importer of hvac and requests."""

from ephemeral_creds.providers.vault.auth.approle import AppRoleAuth
from ephemeral_creds.providers.vault.auth.aws import AWSAuth
from ephemeral_creds.providers.vault.auth.base import AuthMethod
from ephemeral_creds.providers.vault.auth.cert import CertAuth
from ephemeral_creds.providers.vault.auth.jwt import JWTAuth, KubernetesAuth
from ephemeral_creds.providers.vault.auth.metadata import AzureAuth, GCPAuth
from ephemeral_creds.providers.vault.auth.password import LDAPAuth, UserpassAuth
from ephemeral_creds.providers.vault.auth.token import AgentAuth, TokenAuth
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.dynamic import VaultDynamicProvider
from ephemeral_creds.providers.vault.kv import VaultKVProvider
from ephemeral_creds.providers.vault.provider import VaultProvider
from ephemeral_creds.providers.vault.static import VaultStaticProvider

__all__ = [
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
    "VaultKVProvider",
    "VaultProvider",
    "VaultStaticProvider",
]
