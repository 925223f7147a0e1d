"""A load on a pool while its source changes credentials: queries, and logins at every moment."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

from load import Load

if TYPE_CHECKING:
    from ephemeral_creds import RotatingConnectionPool

__all__ = ["LOAD_SECONDS", "PoolLoad"]

LOAD_SECONDS = float(os.environ.get("EPHEMERAL_CREDS_LOAD_SECONDS", "0"))
"""How long a load lasts at least, after its changes; 60 for the figures of a release."""


class PoolLoad(Load):
    """Four threads that query, and close a connection now and then.

    Attributes:
        backends: the processes of PostgreSQL that have answered.
    """

    def __init__(self, pool: RotatingConnectionPool) -> None:
        super().__init__(self._query)
        self.backends: set[int] = set()
        self._pool = pool
        self._numbers = itertools.count(1)
        self._begun = time.monotonic()

    def __exit__(self, *error: object) -> None:
        left = self._begun + LOAD_SECONDS - time.monotonic()
        if error[0] is None and left > 0:
            self._done.wait(left)
        super().__exit__(*error)

    def _query(self) -> None:
        with self._pool.connection() as conn:
            conn.execute("SELECT current_user").fetchone()
            self.backends.add(conn.info.backend_pid)
        if next(self._numbers) % 10 == 0:
            # As a busy service would: so that there are logins at every moment.
            with self._pool.connection() as conn:
                conn.close()
