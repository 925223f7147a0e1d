"""A transaction that is run again when its session ends under it, as decorator and as loop.

The accident is made here: the first session of each ends itself, as an administrator or a
failover would.

Run it as `api_service.py`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ephemeral_creds import (
    AppRoleAuth,
    RotatingConnectionPool,
    VaultDynamicProvider,
    retry_on_rotation,
)

if TYPE_CHECKING:
    from psycopg import Connection


class Accident:
    """Ends a session, but only once."""

    def __init__(self) -> None:
        self._happened = False

    def happen(self, connection: Connection) -> None:
        """End the session of `connection`, unless that has been done to another."""
        if not self._happened:
            self._happened = True
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def main() -> None:
    """Have the same accident twice."""
    # Each repetition is logged with the type of the error and its SQLSTATE.
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("ephemeral_creds").setLevel(logging.INFO)
    auth = AppRoleAuth(os.environ["VAULT_ROLE_ID"], os.environ["VAULT_SECRET_ID"])
    provider = VaultDynamicProvider(os.environ["VAULT_ROLE"], auth=auth)
    with RotatingConnectionPool(provider, os.environ["DB_CONNINFO"], name="orders") as pool:
        accident = Accident()

        @retry_on_rotation(pool)
        def total(*amounts: int) -> int:
            # All of the transaction is in here, the checkout too, and nothing else.
            with pool.connection() as connection:
                accident.happen(connection)
                query = "SELECT sum(n) FROM unnest(%s::int[]) AS n"
                row = connection.execute(query, [[*amounts]]).fetchone()
                return int(row[0]) if row else 0

        print("decorator:", total(30, 12))

        accident = Accident()
        for attempt in retry_on_rotation(pool, attempts=5, timeout=10):
            with attempt, pool.connection() as connection:
                accident.happen(connection)
                answer = connection.execute("SELECT 42").fetchone()
        print("loop:", answer[0] if answer else None)


if __name__ == "__main__":
    main()
