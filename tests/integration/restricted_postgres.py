"""PostgreSQL servers that restrict who may log in, and how."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.testing import PostgresServer
from ephemeral_creds.testing._process import unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certificates import Authority

__all__ = ["postgres_with_tls", "strict_postgres"]

# The database decides, so that nothing has to be reloaded.
_HBA = """\
host    all      postgres all scram-sha-256
host    clear    all      all password
host    members  +members all scram-sha-256
host    plain    all      all scram-sha-256
host    private  all      all scram-sha-256
host    closed   all      all scram-sha-256
host    nowhere  all      all scram-sha-256
hostssl postgres all      all scram-sha-256
"""


@contextmanager
def strict_postgres(authority: Authority) -> Iterator[PostgresServer]:
    """Run one with these databases; skips where no PostgreSQL has TLS.

    ``postgres`` takes TLS only, ``clear`` asks for passwords in the clear, ``members`` lets members
    of the role ``members`` in, ``plain`` all roles, ``private`` and ``closed`` no role; there is no
    ``nowhere``.
    """
    with postgres_with_tls(authority, _HBA, max_connections=12) as server:
        with closing(server.admin()) as admin:
            for database in ("clear", "members", "plain", "private"):
                admin.execute(f"CREATE DATABASE {database}".encode())
            admin.execute("CREATE DATABASE closed ALLOW_CONNECTIONS false")
            admin.execute("REVOKE CONNECT ON DATABASE private FROM public")
            admin.execute("CREATE ROLE members")
        yield server


def find_postgres_with_tls() -> Path | None:
    """Return the folder of the newest of the system's PostgreSQLs: the wheel's has no TLS."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def postgres_with_tls(
    authority: Authority, hba: str, *, max_connections: int = 100
) -> Iterator[PostgresServer]:
    """Run one that shows a certificate of 127.0.0.1; skips where no PostgreSQL has TLS."""
    binaries = find_postgres_with_tls()
    if binaries is None:
        pytest.skip("no PostgreSQL with TLS here (Debian's package postgresql has one)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        issued = authority.issue("db.example.com", server=True, ip="127.0.0.1")
        certificate, key = folder / "cert.pem", folder / "key.pem"
        certificate.write_bytes(issued.cert.read_bytes())
        key.write_bytes(issued.key.read_bytes())
        key.chmod(0o600)
        os.chown(key, unprivileged_user().get("user", -1), -1)
        hba_file = folder / "pg_hba.conf"
        hba_file.write_text(hba)
        options = {
            "ssl": "on",
            "ssl_cert_file": str(certificate),
            "ssl_key_file": str(key),
            "hba_file": str(hba_file),
        }
        with PostgresServer(
            binaries=binaries, max_connections=max_connections, options=options
        ) as server:
            yield server
