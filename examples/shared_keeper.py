"""Two pools on one keeper: they log in as the same user, and move to the next one together.

Useful where a service needs connections of two kinds, here for short requests and for long
reports, but one user in PostgreSQL and one lease in Vault are enough.

Run it as `api_service.py`.
"""

from __future__ import annotations

import os
import time

from ephemeral_creds import (
    AppRoleAuth,
    CredentialKeeper,
    RotatingConnectionPool,
    VaultDynamicProvider,
)


def main() -> None:
    """Use both pools, on both sides of a change of credentials."""
    auth = AppRoleAuth(os.environ["VAULT_ROLE_ID"], os.environ["VAULT_SECRET_ID"])
    provider = VaultDynamicProvider(os.environ["VAULT_ROLE"], auth=auth)
    conninfo = os.environ["DB_CONNINFO"]
    # The keeper is closed last: it revokes the lease, which the pools use until then.
    with (
        CredentialKeeper(provider, name="my-app") as keeper,
        RotatingConnectionPool(keeper, conninfo, name="requests", max_size=10) as requests,
        RotatingConnectionPool(
            keeper,
            conninfo,
            name="reports",
            min_size=1,
            max_size=2,
            kwargs={"options": "-c statement_timeout=10min"},
        ) as reports,
    ):
        show(requests, reports)
        keeper.refresh()
        # The old connections work on; each pool replaces its own in the background.
        time.sleep(1)
        show(requests, reports)


def show(*pools: RotatingConnectionPool) -> None:
    """Print whom each pool logs in as."""
    for pool in pools:
        with pool.connection() as connection:
            row = connection.execute("SELECT current_user").fetchone()
            print(f"{pool.name}: {row[0] if row else None}")


if __name__ == "__main__":
    main()
