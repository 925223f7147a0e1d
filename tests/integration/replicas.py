"""A standby that learns of each new role late."""

from __future__ import annotations

import pytest

from ephemeral_creds.testing import PostgresServer
from ephemeral_creds.testing._postgres_binaries import run_program, usable_postgres
from ephemeral_creds.testing._process import unprivileged_user

__all__ = ["Replica"]


class Replica(PostgresServer):
    """A streaming replica that applies whatever `primary` commits `lag` seconds later."""

    def __init__(self, primary: PostgresServer, lag: float) -> None:
        super().__init__(options={"recovery_min_apply_delay": f"{int(lag * 1000)}ms"})
        self._primary = primary

    def _create(self) -> None:
        with self._primary.admin() as admin:
            admin.execute("CREATE ROLE standby LOGIN REPLICATION PASSWORD 'standby-password'")
        self._run_as = unprivileged_user()
        self._own.make_folder()
        home = self._own.folder
        self._give(home)
        self._bin = usable_postgres(home, self._run_as)
        if not (self._bin / "pg_basebackup").exists():
            pytest.skip(f"no replica: {self._bin} has no pg_basebackup")
        source = f"{self._primary.conninfo()} user=standby password=standby-password"
        run_program(
            self._bin / "pg_basebackup", "-d", source, "-D", str(home / "data"), "-R",
            "--checkpoint=fast", "--no-sync", folder=home, run_as=self._run_as,
        )  # fmt: skip
