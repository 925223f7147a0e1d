"""A Vault in this process, for tests: see `VaultEmulator`.

A request comes in at `_listener`, may meet one of the `_faults`, and is admitted and routed by
`_core`. Behind that are `_sys` (``sys/…``), `auth` and `database`, each with a file for every
method or part, and the stores: `_tokens`, `_leases`, `_wrapping` and `_acl` (policies). `_wire` is
how Vault writes requests and answers.
"""

from ephemeral_creds.testing._emulator._faults import Fault, Faults
from ephemeral_creds.testing._emulator._listener import RequestRecord
from ephemeral_creds.testing._emulator._server import VaultEmulator

__all__ = ["Fault", "Faults", "RequestRecord", "VaultEmulator"]
