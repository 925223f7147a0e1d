"""`LoginTest`: one connection that tells whether the current credentials work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import psycopg

from ephemeral_creds import EphemeralCredsError, RotatingConnectionPool

if TYPE_CHECKING:
    from ephemeral_creds import CredentialKeeper

__all__ = ["LoginTest"]

# A dropped role is noticed in this time. One query every ten seconds costs a server nothing.
_INTERVAL = 10.0


class LoginTest:
    """Logs in with new credentials before they are published, and tests again and again.

    If the role was dropped, or PostgreSQL refuses it, the keeper fetches other credentials. The
    events of keeper and pool report both.

    Args:
        keeper: whose credentials they are.
        conninfo: where PostgreSQL is, without user and password.
        interval: seconds between two tests.

    Raises:
        ConfigurationError: `conninfo` is not one, or has a user or a password.
    """

    def __init__(
        self, keeper: CredentialKeeper, conninfo: str, *, interval: float = _INTERVAL
    ) -> None:
        self._pool: RotatingConnectionPool[psycopg.Connection[Any]] = RotatingConnectionPool(
            keeper, conninfo, min_size=1, max_size=1, timeout=interval, name="login-test"
        )
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="login-test", daemon=True)

    def __enter__(self) -> Self:
        self._pool.open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._pool.close()
        self._thread.join(self._interval)

    def _run(self) -> None:
        while not self._done.wait(self._interval):
            self._pool.verify_connections()
            try:
                with self._pool.connection():
                    pass
            except (psycopg.Error, EphemeralCredsError):
                # It is reported already, and tried again.
                continue
