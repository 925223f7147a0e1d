"""A file whose role is not there yet: a replica lags behind what a sidecar has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from handovers import Load
from minting import Events
from psycopg import sql

from ephemeral_creds import FileProvider, RefreshPolicy
from ephemeral_creds.events import (
    CandidateDiscarded,
    CredentialsPublished,
    LoginRejected,
    PoolRotated,
)
from ephemeral_creds.lifecycle.policy import Tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twins import Setup

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer

pytestmark = pytest.mark.slow


class LateWriter:
    """Writes credentials into a file, and makes the role another time, or never."""

    def __init__(self, postgres: PostgresServer, file: Path, prefix: str) -> None:
        self.file = file
        self.table = f"{prefix}_table"
        self._prefix = prefix
        self._admin = postgres.admin()
        self._admin.execute(f"CREATE ROLE {prefix}_group NOLOGIN")
        self._admin.execute(f"CREATE TABLE {self.table} (id bigserial, worker int)")
        self._admin.execute(f"GRANT SELECT, INSERT ON {self.table} TO {prefix}_group")
        self._admin.execute(f"GRANT USAGE ON SEQUENCE {self.table}_id_seq TO {prefix}_group")

    def write(self, number: int) -> None:
        new = self.file.with_suffix(".new")
        new.touch(0o600)
        new.write_text(f"DB_USERNAME={self.name(number)}\nDB_PASSWORD=late-{self.name(number)}")
        new.replace(self.file)

    def create(self, number: int) -> None:
        name = sql.Identifier(self.name(number))
        self._admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
                name,
                sql.Literal(f"late-{self.name(number)}"),
                sql.Identifier(f"{self._prefix}_group"),
            )
        )

    def drop(self, number: int) -> None:
        self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.name(number))))

    def close(self) -> None:
        self._admin.close()

    def name(self, number: int) -> str:
        return f"{self._prefix}_{number}"


@pytest.fixture
def writer(
    postgres: PostgresServer, unique: Callable[[str], str], tmp_path: Path, canary: Canary
) -> Iterator[LateWriter]:
    canary.allow_secret_file(tmp_path)
    writer = LateWriter(postgres, tmp_path / "db-creds.txt", unique("late"))
    writer.create(1)
    writer.write(1)
    yield writer
    writer.close()


def test_new_credentials_are_tried_again_while_the_old_ones_last(
    setup: Setup, writer: LateWriter
) -> None:
    events = Events()
    pool = setup.pool(
        FileProvider(writer.file, poll_interval=0.05), refresh=RefreshPolicy(), observers=[events]
    )
    with Load(pool, writer.table) as load:
        load.goes_on()
        writer.write(2)
        events.wait_for(LoginRejected)  # the proof
        writer.create(2)
        events.wait_for(PoolRotated)
        writer.drop(1)
        load.goes_on()
    assert not load.failures
    # How often it was read until it worked is a matter of time.
    assert writer.name(1) != pool.status().keeper.username == writer.name(2)
    assert len(events.of(CredentialsPublished)) == 2


def test_credentials_that_stay_useless_do_not_take_the_place_of_good_ones(
    setup: Setup, writer: LateWriter
) -> None:
    events = Events()
    refresh = RefreshPolicy(retry_initial=0.01, retry_max=0.1, _tuning=Tuning(proof_retry=0.01))
    pool = setup.pool(
        FileProvider(writer.file, poll_interval=0.05), refresh=refresh, observers=[events]
    )
    with Load(pool, writer.table) as load:
        writer.write(2)
        events.wait_for(LoginRejected, 2 * refresh.tuning.proof_attempts)
        load.goes_on()
        assert not events.of(CandidateDiscarded)
        assert len(events.of(CredentialsPublished)) == 1
        writer.create(2)
        events.wait_for(CredentialsPublished, 2)
        load.goes_on()
    assert not load.failures
