"""A driver without a pool of ours, on a real PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import PATIENCE, RoleProvider
from twins import wait_until

from ephemeral_creds import CredentialKeeper, LoginFailure, RefreshPolicy, Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer


class Driver:
    """One connection, replaced when it is stale."""

    def __init__(self, server: PostgresServer, keeper: CredentialKeeper) -> None:
        self._conninfo = server.conninfo()
        self.sessions = Sessions(keeper, self._prove)
        self._open()

    def _connect(self, session: Session) -> psycopg.Connection[tuple[object, ...]]:
        credentials = session.credentials
        try:
            connection = psycopg.connect(
                self._conninfo,
                user=credentials.username,
                password=credentials.password.reveal(),
                autocommit=True,
            )
        except psycopg.OperationalError:
            session.rejected(LoginFailure.CREDENTIALS)
            raise
        session.accepted()
        return connection

    def _open(self) -> None:
        self._session = self.sessions.begin()
        self._connection = self._connect(self._session)

    def _prove(self, session: Session) -> None:
        self._connect(session).close()
        session.closed()

    def user(self) -> object:
        if self._session.is_stale:
            self.close()
            self._open()
        row = self._connection.execute("SELECT current_user::text").fetchone()
        assert row is not None
        return row[0]

    def close(self) -> None:
        self._connection.close()
        self._session.closed()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_ten_rotations_of_a_driver_that_is_not_ours(
    postgres: PostgresServer, unique: Callable[[str], str], stack: ExitStack
) -> None:
    provider = RoleProvider(postgres, unique("driver"))
    stack.callback(provider.disconnect)
    keeper = stack.enter_context(
        CredentialKeeper(provider, refresh=RefreshPolicy(mint_interval=0.0), observers=[])
    )
    driver = Driver(postgres, keeper)
    stack.callback(driver.sessions.close)
    stack.callback(driver.close)
    for number in range(1, 11):
        assert driver.user() == f"{provider.prefix}_{number}"
        keeper.refresh(PATIENCE)
    driver.user()
    wait_until(lambda: provider.live == {f"{provider.prefix}_11"}, "revocations")
    assert driver.sessions.open == {11: 1}
