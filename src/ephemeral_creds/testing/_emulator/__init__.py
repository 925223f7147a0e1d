"""A Vault in this process, for tests: see `VaultEmulator`."""

from ephemeral_creds.testing._emulator._faults import Fault, Faults
from ephemeral_creds.testing._emulator._server import RequestRecord, VaultEmulator

__all__ = ["Fault", "Faults", "RequestRecord", "VaultEmulator"]
