"""The service's tests: a real PostgreSQL, a real OpenBao or Vault, and nothing to set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from orders import Closed, OrderBook

from ephemeral_creds.events import LeaseExpired

if TYPE_CHECKING:
    import psycopg

    from ephemeral_creds import RotatingConnectionPool
    from ephemeral_creds.testing import EphemeralVault, EventCollector, PostgresAccess


@pytest.fixture
def book(
    rotating_pool: RotatingConnectionPool[psycopg.Connection], ephemeral_postgres: PostgresAccess
) -> OrderBook:
    """A service without orders."""
    with ephemeral_postgres.admin() as conn:
        conn.execute("TRUNCATE orders")
    return OrderBook(rotating_pool)


def test_orders_are_taken_across_a_rotation(
    book: OrderBook, ephemeral_vault: EphemeralVault
) -> None:
    """Nothing is lost when the user changes."""
    book.take("tea")
    ephemeral_vault.rotate()
    book.take("milk")
    assert book.items() == ["tea", "milk"]


def test_orders_are_taken_while_vault_is_away(
    book: OrderBook, ephemeral_vault: EphemeralVault
) -> None:
    """The current credentials still work."""
    with ephemeral_vault.outage():
        book.take("tea")
    assert book.items() == ["tea"]


def test_a_lost_connection_loses_no_order(book: OrderBook, ephemeral_vault: EphemeralVault) -> None:
    """The transaction is run again."""
    book.take("tea")
    ephemeral_vault.cut_connections()
    book.take("milk")
    assert book.items() == ["tea", "milk"]


def test_a_dropped_user_loses_no_order(book: OrderBook, ephemeral_vault: EphemeralVault) -> None:
    """The transaction is run again, as another user."""
    book.take("tea")
    ephemeral_vault.drop_role()
    book.take("milk")
    assert book.items() == ["tea", "milk"]


def test_the_shop_closes_when_the_credentials_have_expired(
    book: OrderBook, ephemeral_vault: EphemeralVault, credential_events: EventCollector
) -> None:
    """Vault was unreachable for too long; the service recovers with it."""
    with ephemeral_vault.outage():
        ephemeral_vault.expire()
        credential_events.wait_for(LeaseExpired)
        with pytest.raises(Closed):
            book.take("tea")
    book.take("milk")
    assert book.items() == ["milk"]
