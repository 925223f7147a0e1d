"""A worker that takes jobs out of a table, until it is told to stop.

Run it as::

    VAULT_ADDR=http://127.0.0.1:8200 VAULT_ROLE=my-app-role VAULT_ROLE_ID=... VAULT_SECRET_ID=... \
    DB_CONNINFO="host=localhost dbname=mydb" python examples/worker/worker.py

In place of ``VAULT_SECRET_ID`` it takes the credential ``secret-id`` that systemd hands over, and
with ``DB_CREDS`` it reads the file of a sidecar and talks to no Vault.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

from ephemeral_creds import (
    AppRoleAuth,
    CredentialProvider,
    FileProvider,
    RotatingConnectionPool,
    VaultDynamicProvider,
    retry_on_rotation,
)

# SKIP LOCKED: any number of workers share the table. The job is done in the transaction that
# takes it, so that one that is cut off in the middle is taken again.
TAKE = """
    UPDATE jobs SET done_by = current_user
    WHERE id = (
        SELECT id FROM jobs WHERE done_by IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, payload
"""
IDLE = 1.0  # seconds between two looks at an empty table

log = logging.getLogger("worker")


def make_provider() -> CredentialProvider:
    """Return where the credentials come from, as the environment says."""
    if creds := os.environ.get("DB_CREDS"):
        return FileProvider(creds)
    role_id = os.environ["VAULT_ROLE_ID"]
    if secret_id := os.environ.get("VAULT_SECRET_ID"):
        auth = AppRoleAuth(role_id, secret_id)
    else:
        # Read at each login.
        folder = Path(os.environ["CREDENTIALS_DIRECTORY"])
        auth = AppRoleAuth(role_id, secret_id_file=folder / "secret-id")
    return VaultDynamicProvider(os.environ["VAULT_ROLE"], auth=auth)


def main() -> None:
    """Work until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with RotatingConnectionPool(
        make_provider(),
        os.environ["DB_CONNINFO"],
        session_role=os.environ.get("DB_SESSION_ROLE"),
        min_size=1,
        max_size=2,
        name="worker",
    ) as pool:

        @retry_on_rotation(pool)
        def do_one() -> bool:
            with pool.connection() as connection:
                job = connection.execute(TAKE).fetchone()
                if job is not None:
                    log.info("job %s: %s", *job)
                return job is not None

        pool.wait()
        log.info("ready")
        while not stopping.is_set():
            if not do_one():
                stopping.wait(IDLE)
    # The pool has given its lease back: the user is gone from PostgreSQL.
    log.info("stopped")


if __name__ == "__main__":
    main()
