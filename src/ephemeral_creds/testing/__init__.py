"""Real servers and fakes, for the tests of whoever uses the library.

`PostgresServer`, `VaultServer` and `VaultAgent` run the real things, Vault or OpenBao, and leave
nothing behind. A `VaultServer` goes wrong on request, by a `Fault`, and `TCPProxy` breaks the
network. `DatabaseEngine` and `VaultAdmin` set up what a test needs.
"""

from ephemeral_creds.testing._admin import AppRole, VaultAdmin
from ephemeral_creds.testing._agent import VaultAgent
from ephemeral_creds.testing._agent_config import dotenv_template
from ephemeral_creds.testing._binaries import VAULT_VERSION, find_vault, vault_cache_path
from ephemeral_creds.testing._clock import FakeClock
from ephemeral_creds.testing._engine import CREATE_ROLE, DatabaseEngine
from ephemeral_creds.testing._fault_proxy import RequestRecord
from ephemeral_creds.testing._faults import Fault, Faults
from ephemeral_creds.testing._http import VaultCallFailed, VaultResponse, vault_request
from ephemeral_creds.testing._kubernetes import (
    ServiceAccount,
    TokenReviewServer,
    make_service_account_jwt,
)
from ephemeral_creds.testing._postgres import PostgresServer
from ephemeral_creds.testing._proxy import TCPProxy
from ephemeral_creds.testing._scripted import ScriptedProvider
from ephemeral_creds.testing._vault import VaultServer
from ephemeral_creds.testing._vault_persistent import PersistentVaultServer

__all__ = [
    "CREATE_ROLE",
    "VAULT_VERSION",
    "AppRole",
    "DatabaseEngine",
    "FakeClock",
    "Fault",
    "Faults",
    "PersistentVaultServer",
    "PostgresServer",
    "RequestRecord",
    "ScriptedProvider",
    "ServiceAccount",
    "TCPProxy",
    "TokenReviewServer",
    "VaultAdmin",
    "VaultAgent",
    "VaultCallFailed",
    "VaultResponse",
    "VaultServer",
    "dotenv_template",
    "find_vault",
    "make_service_account_jwt",
    "vault_cache_path",
    "vault_request",
]
