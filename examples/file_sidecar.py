"""A service beside a Vault Agent, which writes the credentials into a file and keeps it fresh.

Run it as::

    DB_CREDS=/vault/secrets/db-creds.txt DB_CONNINFO="host=localhost dbname=mydb" \
    python examples/file_sidecar.py

The file has two lines, ``DB_USERNAME=...`` and ``DB_PASSWORD=...``. Mount its folder, not the file
itself (``subPath``): a file mounted alone is never updated.
"""

from __future__ import annotations

import os

from ephemeral_creds import FileProvider, RotatingConnectionPool


def main() -> None:
    """Serve a few requests."""
    provider = FileProvider(os.environ["DB_CREDS"])
    with RotatingConnectionPool(provider, os.environ["DB_CONNINFO"], max_size=10) as pool:
        for request in range(3):
            with pool.connection() as connection:
                row = connection.execute("SELECT current_user").fetchone()
                print(f"request {request}: served as {row[0] if row else None}")


if __name__ == "__main__":
    main()
