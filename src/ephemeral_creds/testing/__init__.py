"""Real servers and fakes for the tests of services that use the library.

`PostgresServer`, `VaultServer` and `VaultAgent` run the real programs, Vault or OpenBao, and
clean up after themselves. A `VaultServer` fails on request, by a `Fault`, and `TCPProxy` breaks
the network. `DatabaseEngine` and `VaultAdmin` set up what a test needs. For pytest there are
fixtures: see `ephemeral_creds.testing.pytest_plugin`.

What a name needs is imported when it is first used.
"""

from __future__ import annotations

import importlib

# As in the package above: every name, and the module that it is imported from on first use.
_HOMES = {
    "CREATE_ROLE": "_engine",
    "AppRole": "_admin",
    "CredentialsFile": "_ephemeral_vault",
    "DatabaseEngine": "_engine",
    "EphemeralVault": "_ephemeral_vault",
    "EventCollector": "_fakes",
    "ExternalVault": "_fault_proxy",
    "FakeClock": "_fakes",
    "Fault": "_faults",
    "Faults": "_faults",
    "PostgresAccess": "_postgres",
    "PostgresLike": "_postgres",
    "PostgresServer": "_postgres",
    "ProviderContract": "provider_contract",
    "RequestRecord": "_fault_proxy",
    "ScriptedProvider": "_fakes",
    "TCPProxy": "_proxy",
    "TickingClock": "_fakes",
    "VaultAccess": "_fault_proxy",
    "VaultAdmin": "_admin",
    "VaultAgent": "_agent",
    "VaultCallFailed": "_admin",
    "VaultResponse": "_admin",
    "VaultServer": "_vault",
    "dotenv_template": "_agent",
    "find_vault": "_binaries",
    "vault_request": "_admin",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
