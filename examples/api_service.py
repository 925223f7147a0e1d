"""A service that gets its credentials from Vault itself, by AppRole.

Run it as::

    VAULT_ADDR=http://127.0.0.1:8200 VAULT_ROLE=my-app-role \
    VAULT_ROLE_ID=... VAULT_SECRET_ID=... DB_CONNINFO="host=localhost dbname=mydb" \
    python examples/api_service.py

The policy of the AppRole has to allow reading ``database/creds/my-app-role``, and updating
``sys/leases/renew`` and ``sys/leases/revoke``.
"""

from __future__ import annotations

import os

from ephemeral_creds import AppRoleAuth, RotatingConnectionPool, VaultDynamicProvider


def main() -> None:
    """Serve a few requests."""
    auth = AppRoleAuth(os.environ["VAULT_ROLE_ID"], os.environ["VAULT_SECRET_ID"])
    # VAULT_ADDR, VAULT_CACERT and so on are read from the environment.
    provider = VaultDynamicProvider(os.environ["VAULT_ROLE"], auth=auth)
    with RotatingConnectionPool(provider, os.environ["DB_CONNINFO"], max_size=10) as pool:
        for request in range(3):
            with pool.connection() as connection:
                row = connection.execute("SELECT current_user").fetchone()
                print(f"request {request}: served as {row[0] if row else None}")
    # Here the pool is closed, and Vault has removed the user again.


if __name__ == "__main__":
    main()
