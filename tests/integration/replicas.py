"""A standby that learns of each new role late."""

from __future__ import annotations

import pytest

from ephemeral_creds.testing import PostgresServer

__all__ = ["Replica"]


class Replica(PostgresServer):
    """A streaming replica that applies whatever `primary` commits `lag` seconds later."""

    def __init__(self, primary: PostgresServer, lag: float) -> None:
        super().__init__(options={"recovery_min_apply_delay": f"{int(lag * 1000)}ms"})
        self._primary = primary

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
