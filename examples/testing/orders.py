"""A small service that takes orders; test_orders.py shows what becomes of it when Vault acts up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds import CredentialsExpired, retry_on_rotation

if TYPE_CHECKING:
    import psycopg

    from ephemeral_creds import RotatingConnectionPool

__all__ = ["Closed", "OrderBook"]


class Closed(Exception):
    """No orders are taken now; the caller may come again."""


class OrderBook:
    """Takes orders.

    Args:
        pool: an open pool; its creator closes it.
    """

    def __init__(self, pool: RotatingConnectionPool[psycopg.Connection]) -> None:
        self._pool = pool

    def take(self, item: str) -> None:
        """Take an order.

        Raises:
            Closed: there are no credentials for the database.
        """
        try:
            retry_on_rotation(self._pool)(self._insert)(item)
        except CredentialsExpired as error:
            raise Closed("no orders are taken now") from error

    def items(self) -> list[str]:
        """Return what was ordered, in order."""
        with self._pool.connection() as conn:
            return [item for (item,) in conn.execute("SELECT item FROM orders ORDER BY id")]

    def _insert(self, item: str) -> None:
        with self._pool.connection(timeout=1) as conn:
            conn.execute("INSERT INTO orders (item) VALUES (%s)", [item])
