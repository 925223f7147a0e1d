"""Passwords and users that rotate as the templates of AWS Secrets Manager do it, under load."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import PATIENCE, Events
from secret_rotation import Rotation, pool_for, uses
from source_load import PoolLoad
from twins import wait_until

from ephemeral_creds import (
    SecretsManagerProvider,
)
from ephemeral_creds.cli import main
from ephemeral_creds.events import LoginRejected, SourceUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from aws_secrets import AWSSecrets
    from ephemeral_creds import CredentialKeeper, RotatingConnectionPool
    from ephemeral_creds.testing import PostgresServer

pytest.importorskip("moto", reason="moto, which is Secrets Manager here, is not installed")

pytestmark = pytest.mark.slow

CHANGES = 5


@pytest.fixture(scope="module")
def server() -> Iterator[AWSSecrets]:
    from aws_secrets import AWSSecrets

    with AWSSecrets() as server:
        yield server


@pytest.fixture
def aws(server: AWSSecrets, monkeypatch: pytest.MonkeyPatch) -> AWSSecrets:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-access-key")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server.down = False
    return server


class AWSRotation(Rotation):
    """A secret of AWS, rotated in the four steps of the templates."""

    def __init__(
        self, aws: AWSSecrets, postgres: PostgresServer, name: str, users: tuple[str, ...]
    ) -> None:
        super().__init__(postgres, users)
        self.aws, self.name = aws, name
        aws.create(name, self.values)

    def create_secret(self) -> str:
        self.take_turn()
        return self.aws.put(self.name, self.values, "AWSPENDING")

    def test_secret(self) -> None:
        user, password = str(self.values["username"]), str(self.values["password"])
        psycopg.connect(self.conninfo, user=user, password=password).close()

    def finish_secret(self, version: str) -> None:
        self.aws.finish(self.name, version)

    def run(self, before_the_end: Callable[[], object] = lambda: None) -> dict[str, object]:
        version = self.create_secret()
        self.set_secret()
        self.test_secret()
        before_the_end()
        self.finish_secret(version)
        return self.values

    def pool(
        self, events: Events, *, min_size: int, max_size: int
    ) -> AbstractContextManager[tuple[CredentialKeeper, RotatingConnectionPool]]:
        provider = SecretsManagerProvider(
            self.name, region="eu-central-1", endpoint=self.aws.address, poll_interval=0.2
        )
        return pool_for(provider, self.conninfo, events, min_size=min_size, max_size=max_size)


def test_a_single_user_rotates_under_load(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    """In each rotation logins are refused between its second and its last step."""
    rotation, events = AWSRotation(aws, postgres, unique("single"), (unique("aws_app"),)), Events()
    with rotation.pool(events, min_size=4, max_size=6) as (
        keeper,
        pool,
    ):
        pool.wait()
        kept = pool.getconn()
        backend = kept.info.backend_pid
        with PoolLoad(pool) as load:
            for _ in range(CHANGES):
                refused = len(events.of(LoginRejected))
                values = rotation.run(lambda: events.wait_for(LoginRejected, refused + 1))  # noqa: B023
                uses(keeper, values)
                load.goes_on()
        assert kept.execute("SELECT pg_backend_pid()").fetchone() == (backend,)
        pool.putconn(kept)
        status = pool.status()
    assert load.failures == []
    assert status.keeper.generation == 1
    print(f"{load.succeeded} operations, {status.keeper.rejected_logins} refused logins")


def test_alternating_users_rotate_under_load(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    name = unique("aws_app")
    rotation = AWSRotation(aws, postgres, unique("alternating"), (name, f"{name}_clone"))
    events = Events()
    with rotation.pool(events, min_size=4, max_size=6) as (
        keeper,
        pool,
    ):
        pool.wait()
        with PoolLoad(pool) as load:
            for number in range(CHANGES):
                old = rotation.values["username"]
                uses(keeper, rotation.run())
                wait_until(lambda: not rotation.sessions(old), f"{old} has sessions")  # noqa: B023
                load.goes_on()
                assert keeper.current().generation == number + 2
        status = pool.status()
    assert load.failures == []
    # No login was refused: the old user works until the next rotation.
    assert status.keeper.rejected_logins == 0
    print(f"{load.succeeded} operations")


def test_backends_stay_where_only_the_password_changes(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    rotation, events = AWSRotation(aws, postgres, unique("stays"), (unique("aws_app"),)), Events()
    with rotation.pool(events, min_size=3, max_size=3) as (
        keeper,
        pool,
    ):
        pool.wait()

        def backends() -> set[int]:
            with contextlib.ExitStack() as stack:
                conns = [stack.enter_context(pool.connection()) for _ in range(3)]
                return {conn.info.backend_pid for conn in conns}

        before = backends()
        for _ in range(3):
            uses(keeper, rotation.run())
            assert backends() == before


def test_the_previous_version_serves_while_the_current_one_is_refused(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    """A secret that was written before PostgreSQL, and a service that starts then."""
    rotation, events = AWSRotation(aws, postgres, unique("early"), (unique("aws_app"),)), Events()
    version = rotation.create_secret()
    rotation.finish_secret(version)
    with rotation.pool(events, min_size=1, max_size=2) as (
        keeper,
        pool,
    ):
        pool.wait(PATIENCE)
        assert keeper.current().credentials.password.reveal() != rotation.values["password"]
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        events.wait_for(SourceUnusable)
        assert "AWSPREVIOUS is used" in str(keeper.status().source_error)
        # PostgreSQL gets the password: the previous one is refused, and the current one used.
        rotation.set_secret()
        with pool.connection() as conn:
            conn.close()
        uses(keeper, rotation.values)
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        wait_until(lambda: not keeper.status().source_error, "the end of the trouble")


def test_the_previous_user_serves_while_the_current_one_is_refused(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    """Of alternating users: until the next rotation gives it another password."""
    name = unique("aws_app")
    rotation = AWSRotation(aws, postgres, unique("lost"), (name, f"{name}_clone"))
    rotation.run()
    events = Events()
    with postgres.admin() as conn:
        conn.execute(f'ALTER ROLE "{name}_clone" NOLOGIN'.encode())
    with rotation.pool(events, min_size=1, max_size=4) as (keeper, pool):
        pool.wait(PATIENCE)
        assert keeper.current().credentials.username == name
        with PoolLoad(pool) as load:
            load.goes_on()
            # Its password changes, and the other user cannot serve: no login is accepted till then.
            refused = len(events.of(LoginRejected))
            uses(keeper, rotation.run(lambda: events.wait_for(LoginRejected, refused + 1)))
            load.goes_on()
        assert keeper.current().credentials.username == name
    assert load.failures == []


def test_an_outage_costs_nothing(
    aws: AWSSecrets, postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    rotation, events = AWSRotation(aws, postgres, unique("outage"), (unique("aws_app"),)), Events()
    with rotation.pool(events, min_size=1, max_size=4) as (
        keeper,
        pool,
    ):
        pool.wait()
        aws.down = True
        wait_until(lambda: keeper.status().last_error, "a failed read")
        with PoolLoad(pool) as load:
            load.goes_on(100)
        aws.down = False
        uses(keeper, rotation.run())
    assert load.failures == []


def test_check_takes_each_step(
    aws: AWSSecrets,
    postgres: PostgresServer,
    unique: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rotation = AWSRotation(aws, postgres, unique("check"), (unique("aws_app"),))
    url = f"aws-secret://{rotation.name}?region=eu-central-1&endpoint={aws.address}"
    asked = ["check", url, "--json", "--conninfo", rotation.conninfo]
    main(asked)
    found = json.loads(capsys.readouterr().out)
    levels = {each["step"]: each["level"] for each in found["findings"]}
    assert found["complete"]
    assert levels["credentials"] == levels["connect"] == "ok"
    aws.fail("GetSecretValue", "AccessDeniedException", "not authorized")
    main(asked)
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "fail"
    assert "allow secretsmanager:GetSecretValue" in found["findings"][-1]["text"]
