"""Why a login of a driver's own failed, as a real PostgreSQL says it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from ephemeral_creds import CredentialKeeper, FixedProvider, LoginFailure, Session, Sessions
from ephemeral_creds.contrib._login import new_diagnosis, psycopg_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import PostgresServer


@pytest.fixture
def refused(postgres: PostgresServer) -> Iterator[Session]:
    """A session whose password is wrong."""
    with ExitStack() as stack:
        provider = FixedProvider(postgres.superuser, "not-this-password")
        keeper = stack.enter_context(CredentialKeeper(provider, observers=[]))
        sessions = stack.enter_context(Sessions(keeper, lambda _: None))
        yield sessions.begin()


def test_psycopg_is_refused_the_password(postgres: PostgresServer, refused: Session) -> None:
    credentials = refused.credentials
    conninfo = f"host={postgres.host} port={postgres.port} dbname=postgres"
    try:
        psycopg.connect(conninfo, user=credentials.username, password=credentials.password.reveal())
    except psycopg.OperationalError as error:
        failure = psycopg_failure(error, refused, new_diagnosis(), conninfo)
    assert (failure.reason, failure.sqlstate) == (LoginFailure.CREDENTIALS, "28P01")
    assert isinstance(failure.error, psycopg.OperationalError)
    assert failure.error.pgconn is None
