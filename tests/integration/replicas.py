"""A standby that learns of each new role late."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds.testing import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Replica"]


class Replica(PostgresServer):
    """A streaming replica of `primary`."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Apply nothing of what the primary commits, until the block ends."""
        user, password = self._primary.superuser, self._primary.password.reveal()
        admin = psycopg.connect(self.conninfo(), user=user, password=password, autocommit=True)
        with closing(admin):
            admin.execute("SELECT pg_wal_replay_pause()")
            try:
                yield
            finally:
                admin.execute("SELECT pg_wal_replay_resume()")

    def _create(self) -> None:
        with self._primary.admin() as admin:
            admin.execute("CREATE ROLE standby LOGIN REPLICATION PASSWORD 'standby-password'")
        if not (self._bin / "pg_basebackup").exists():
            pytest.skip(f"no replica: {self._bin} has no pg_basebackup")
        source = f"{self._primary.conninfo()} user=standby password=standby-password"
        self._run(
            self._bin / "pg_basebackup", "-d", source, "-D", str(self.folder / "data"), "-R",
            "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
