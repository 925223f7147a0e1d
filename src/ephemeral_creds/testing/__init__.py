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
    from ephemeral_creds.testing._binaries import find_vault
    from ephemeral_creds.testing._engine import CREATE_ROLE, DatabaseEngine
    from ephemeral_creds.testing._ephemeral_vault import CredentialsFile, EphemeralVault
    from ephemeral_creds.testing._fakes import (
        EventCollector,
        FakeClock,
        ScriptedProvider,
        TickingClock,
    )
    from ephemeral_creds.testing._fault_proxy import ExternalVault, RequestRecord, VaultAccess
    from ephemeral_creds.testing._faults import Fault, Faults
    from ephemeral_creds.testing._postgres import PostgresAccess, PostgresLike, PostgresServer
    from ephemeral_creds.testing._proxy import TCPProxy
    from ephemeral_creds.testing._vault import VaultServer

__all__ = [
    "CREATE_ROLE",
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
    "vault_request",
]

_HOMES = {
    "_admin": "AppRole VaultAdmin VaultCallFailed VaultResponse vault_request",
    "_agent": "VaultAgent dotenv_template",
    "_binaries": "find_vault",
    "_fakes": "EventCollector FakeClock ScriptedProvider TickingClock",
    "_engine": "CREATE_ROLE DatabaseEngine",
    "_ephemeral_vault": "CredentialsFile EphemeralVault",
    "_fault_proxy": "ExternalVault RequestRecord VaultAccess",
    "_faults": "Fault Faults",
    "_postgres": "PostgresAccess PostgresLike PostgresServer",
    "_proxy": "TCPProxy",
    "_vault": "VaultServer",
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
