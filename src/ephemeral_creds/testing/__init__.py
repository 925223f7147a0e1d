"""Real servers and fakes, for the tests of whoever uses the library.

`PostgresServer`, `VaultServer` and `VaultAgent` run the real things, Vault or OpenBao, and leave
nothing behind. A `VaultServer` goes wrong on request, by a `Fault`, and `TCPProxy` breaks the
network. `DatabaseEngine` and `VaultAdmin` set up what a test needs. For pytest there are fixtures:
see `ephemeral_creds.testing.pytest_plugin`.

What a name needs is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.testing._admin import (
        AppRole,
        VaultAdmin,
        VaultCallFailed,
        VaultResponse,
        vault_request,
    )
    from ephemeral_creds.testing._agent import VaultAgent, dotenv_template
    from ephemeral_creds.testing._binaries import VAULT_VERSION, find_vault, vault_cache_path
    from ephemeral_creds.testing._clock import FakeClock, TickingClock
    from ephemeral_creds.testing._collector import EventCollector
    from ephemeral_creds.testing._engine import CREATE_ROLE, DatabaseEngine
    from ephemeral_creds.testing._ephemeral_vault import CredentialsFile, EphemeralVault
    from ephemeral_creds.testing._fault_proxy import RequestRecord
    from ephemeral_creds.testing._faults import Fault, Faults
    from ephemeral_creds.testing._postgres import PostgresServer
    from ephemeral_creds.testing._postgres_access import PostgresAccess, PostgresLike
    from ephemeral_creds.testing._proxy import TCPProxy
    from ephemeral_creds.testing._scripted import ScriptedProvider
    from ephemeral_creds.testing._vault import VaultServer
    from ephemeral_creds.testing._vault_access import ExternalVault, VaultAccess

__all__ = [
    "CREATE_ROLE",
    "VAULT_VERSION",
    "AppRole",
    "CredentialsFile",
    "DatabaseEngine",
    "EphemeralVault",
    "EventCollector",
    "ExternalVault",
    "FakeClock",
    "Fault",
    "Faults",
    "PostgresAccess",
    "PostgresLike",
    "PostgresServer",
    "RequestRecord",
    "ScriptedProvider",
    "TCPProxy",
    "TickingClock",
    "VaultAccess",
    "VaultAdmin",
    "VaultAgent",
    "VaultCallFailed",
    "VaultResponse",
    "VaultServer",
    "dotenv_template",
    "find_vault",
    "vault_cache_path",
    "vault_request",
]

_HOMES = {
    "_admin": "AppRole VaultAdmin VaultCallFailed VaultResponse vault_request",
    "_agent": "VaultAgent dotenv_template",
    "_binaries": "VAULT_VERSION find_vault vault_cache_path",
    "_clock": "FakeClock TickingClock",
    "_collector": "EventCollector",
    "_engine": "CREATE_ROLE DatabaseEngine",
    "_ephemeral_vault": "CredentialsFile EphemeralVault",
    "_fault_proxy": "RequestRecord",
    "_faults": "Fault Faults",
    "_postgres": "PostgresServer",
    "_postgres_access": "PostgresAccess PostgresLike",
    "_proxy": "TCPProxy",
    "_scripted": "ScriptedProvider",
    "_vault": "VaultServer",
    "_vault_access": "ExternalVault VaultAccess",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME_OF[name]}")
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
