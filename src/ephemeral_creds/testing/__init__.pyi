# Made by tools/make_stub.py from __init__.py: do not edit.

from ephemeral_creds.testing._admin import AppRole as AppRole
from ephemeral_creds.testing._admin import VaultAdmin as VaultAdmin
from ephemeral_creds.testing._admin import VaultCallFailed as VaultCallFailed
from ephemeral_creds.testing._admin import VaultResponse as VaultResponse
from ephemeral_creds.testing._admin import vault_request as vault_request
from ephemeral_creds.testing._agent import VaultAgent as VaultAgent
from ephemeral_creds.testing._agent import dotenv_template as dotenv_template
from ephemeral_creds.testing._binaries import find_vault as find_vault
from ephemeral_creds.testing._engine import CREATE_ROLE as CREATE_ROLE
from ephemeral_creds.testing._engine import DatabaseEngine as DatabaseEngine
from ephemeral_creds.testing._ephemeral_vault import CredentialsFile as CredentialsFile
from ephemeral_creds.testing._ephemeral_vault import EphemeralVault as EphemeralVault
from ephemeral_creds.testing._fakes import EventCollector as EventCollector
from ephemeral_creds.testing._fakes import FakeClock as FakeClock
from ephemeral_creds.testing._fakes import ScriptedProvider as ScriptedProvider
from ephemeral_creds.testing._fakes import TickingClock as TickingClock
from ephemeral_creds.testing._fault_proxy import ExternalVault as ExternalVault
from ephemeral_creds.testing._fault_proxy import RequestRecord as RequestRecord
from ephemeral_creds.testing._fault_proxy import VaultAccess as VaultAccess
from ephemeral_creds.testing._faults import Fault as Fault
from ephemeral_creds.testing._faults import Faults as Faults
from ephemeral_creds.testing._postgres import PostgresAccess as PostgresAccess
from ephemeral_creds.testing._postgres import PostgresLike as PostgresLike
from ephemeral_creds.testing._postgres import PostgresServer as PostgresServer
from ephemeral_creds.testing._proxy import TCPProxy as TCPProxy
from ephemeral_creds.testing._vault import VaultServer as VaultServer
