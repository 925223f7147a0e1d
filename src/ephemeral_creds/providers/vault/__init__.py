"""Credentials from HashiCorp Vault or OpenBao; the only importer of hvac and requests."""

from ephemeral_creds.providers.vault._provider import VaultProvider
from ephemeral_creds.providers.vault.auth import AgentAuth, AuthMethod, KubernetesAuth, TokenAuth
from ephemeral_creds.providers.vault.auth_approle import AppRoleAuth
from ephemeral_creds.providers.vault.auth_aws import AWSAuth
from ephemeral_creds.providers.vault.auth_azure import AzureAuth
from ephemeral_creds.providers.vault.auth_cert import CertAuth
from ephemeral_creds.providers.vault.auth_gcp import GCPAuth
from ephemeral_creds.providers.vault.auth_jwt import JWTAuth
from ephemeral_creds.providers.vault.auth_password import LDAPAuth, UserpassAuth
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.dynamic import VaultDynamicProvider
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
    "VaultProvider",
    "VaultStaticProvider",
]
