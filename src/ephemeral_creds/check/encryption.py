"""The step that looks at what the connection to PostgreSQL goes through."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings

__all__ = ["Line", "check_encryption"]

_VERIFYING = ("verify-ca", "verify-full")
_VERIFY = "sslmode=verify-full in the connection string, and sslrootcert= where the CA is your own"


@dataclass(frozen=True, slots=True)
class Line:
    """What a connection goes through.

    Attributes:
        host: the host, or the folder of a socket.
        address: the host's IP address; empty for a socket.
        tls: whether it is encrypted by TLS.
        gss: whether it is encrypted by GSSAPI.
        sslmode: libpq's setting of that name.
    """

    host: str
    address: str
    tls: bool
    gss: bool
    sslmode: str

    @property
    def local(self) -> bool:
        """Whether it stays within this machine."""
        if not self.address:
            return True
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False


def check_encryption(line: Line, findings: Findings) -> None:
    """Say who else may read what goes over the connection."""
    if line.gss:
        findings.add("encryption", "ok", "the connection is encrypted by GSSAPI")
    elif line.tls and line.sslmode in _VERIFYING:
        findings.add("encryption", "ok", f"TLS, with sslmode={line.sslmode}")
    elif line.tls:
        findings.add(
            "encryption",
            "ok",
            f"TLS, but nobody looks whose certificate it is (sslmode={line.sslmode}): {_VERIFY}",
        )
    elif line.local:
        findings.add("encryption", "ok", "not encrypted, within this machine")
    else:
        findings.add(
            "encryption",
            "warn",
            f"the connection to {line.host} is not encrypted: whoever is in between reads and "
            "changes what goes over it",
            _VERIFY,
        )
