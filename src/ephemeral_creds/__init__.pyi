# Made by tools/make_stub.py from __init__.py: do not edit.

from ephemeral_creds._clock import Clock as Clock
from ephemeral_creds._clock import SystemClock as SystemClock
from ephemeral_creds._values import Credentials as Credentials
from ephemeral_creds._values import Grant as Grant
from ephemeral_creds._values import Lease as Lease
from ephemeral_creds._values import Secret as Secret
from ephemeral_creds.events import Event as Event
from ephemeral_creds.events import Problem as Problem
from ephemeral_creds.exceptions import AccessDenied as AccessDenied
from ephemeral_creds.exceptions import ConfigurationError as ConfigurationError
from ephemeral_creds.exceptions import CredentialsExpired as CredentialsExpired
from ephemeral_creds.exceptions import EphemeralCredsError as EphemeralCredsError
from ephemeral_creds.exceptions import KeeperClosed as KeeperClosed
from ephemeral_creds.exceptions import LeaseLost as LeaseLost
from ephemeral_creds.exceptions import MalformedResponse as MalformedResponse
from ephemeral_creds.exceptions import NoCredentials as NoCredentials
from ephemeral_creds.exceptions import NotReady as NotReady
from ephemeral_creds.exceptions import ProviderError as ProviderError
from ephemeral_creds.exceptions import ProviderUnavailable as ProviderUnavailable
from ephemeral_creds.keeper.consumer import Consumer as Consumer
from ephemeral_creds.keeper.consumer import Keeper as Keeper
from ephemeral_creds.keeper.credentials_file import CredentialsFile as CredentialsFile
from ephemeral_creds.keeper.keeper import CredentialKeeper as CredentialKeeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper as AsyncCredentialKeeper
from ephemeral_creds.keeper.registry import close_on_sigterm as close_on_sigterm
from ephemeral_creds.keeper.session import Session as Session
from ephemeral_creds.keeper.sessions import Sessions as Sessions
from ephemeral_creds.keeper.status import KeeperStatus as KeeperStatus
from ephemeral_creds.lifecycle.policy import RefreshPolicy as RefreshPolicy
from ephemeral_creds.lifecycle.refusals import LoginFailure as LoginFailure
from ephemeral_creds.observers import JSONLogObserver as JSONLogObserver
from ephemeral_creds.observers import Observer as Observer
from ephemeral_creds.observers import log_event as log_event
from ephemeral_creds.pool._async.null_pool import (
    AsyncRotatingNullConnectionPool as AsyncRotatingNullConnectionPool,
)
from ephemeral_creds.pool._async.pool import (
    AsyncRotatingConnectionPool as AsyncRotatingConnectionPool,
)
from ephemeral_creds.pool._sync.null_pool import (
    RotatingNullConnectionPool as RotatingNullConnectionPool,
)
from ephemeral_creds.pool._sync.pool import RotatingConnectionPool as RotatingConnectionPool
from ephemeral_creds.pool.errors import CheckoutFailed as CheckoutFailed
from ephemeral_creds.pool.errors import DatabaseUnreachable as DatabaseUnreachable
from ephemeral_creds.pool.errors import LoginRefused as LoginRefused
from ephemeral_creds.pool.errors import ServerRefused as ServerRefused
from ephemeral_creds.pool.policy import RotationPolicy as RotationPolicy
from ephemeral_creds.pool.retry import retry_on_rotation as retry_on_rotation
from ephemeral_creds.pool.status import PoolStatus as PoolStatus
from ephemeral_creds.providers.base import CredentialProvider as CredentialProvider
from ephemeral_creds.providers.file import FilePolicy as FilePolicy
from ephemeral_creds.providers.file import FileProvider as FileProvider
from ephemeral_creds.providers.fixed import FixedProvider as FixedProvider
from ephemeral_creds.providers.infisical import InfisicalProvider as InfisicalProvider
from ephemeral_creds.providers.secrets.aws import SecretsManagerProvider as SecretsManagerProvider
from ephemeral_creds.providers.secrets.azure import AzureKeyVaultProvider as AzureKeyVaultProvider
from ephemeral_creds.providers.secrets.google import (
    GoogleSecretManagerProvider as GoogleSecretManagerProvider,
)
from ephemeral_creds.providers.tokens.dsql import AuroraDSQLProvider as AuroraDSQLProvider
from ephemeral_creds.providers.tokens.entra import EntraProvider as EntraProvider
from ephemeral_creds.providers.tokens.google import AlloyDBIAMProvider as AlloyDBIAMProvider
from ephemeral_creds.providers.tokens.google import CloudSQLIAMProvider as CloudSQLIAMProvider
from ephemeral_creds.providers.tokens.lakebase import LakebaseProvider as LakebaseProvider
from ephemeral_creds.providers.tokens.provider import TokenProvider as TokenProvider
from ephemeral_creds.providers.tokens.rds import RDSIAMProvider as RDSIAMProvider
from ephemeral_creds.providers.url import provider_from_url as provider_from_url
from ephemeral_creds.providers.vault import AgentAuth as AgentAuth
from ephemeral_creds.providers.vault import AppRoleAuth as AppRoleAuth
from ephemeral_creds.providers.vault import AuthMethod as AuthMethod
from ephemeral_creds.providers.vault import AWSAuth as AWSAuth
from ephemeral_creds.providers.vault import AzureAuth as AzureAuth
from ephemeral_creds.providers.vault import CertAuth as CertAuth
from ephemeral_creds.providers.vault import GCPAuth as GCPAuth
from ephemeral_creds.providers.vault import JWTAuth as JWTAuth
from ephemeral_creds.providers.vault import KubernetesAuth as KubernetesAuth
from ephemeral_creds.providers.vault import LDAPAuth as LDAPAuth
from ephemeral_creds.providers.vault import TokenAuth as TokenAuth
from ephemeral_creds.providers.vault import UserpassAuth as UserpassAuth
from ephemeral_creds.providers.vault import VaultConfig as VaultConfig
from ephemeral_creds.providers.vault import VaultDynamicProvider as VaultDynamicProvider
from ephemeral_creds.providers.vault import VaultKVProvider as VaultKVProvider
from ephemeral_creds.providers.vault import VaultStaticProvider as VaultStaticProvider
