"""A pool whose credential file is replaced by something that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from minting import PATIENCE
from twins import user_of

from ephemeral_creds import ConfigurationError, FileProvider, RefreshPolicy
from ephemeral_creds.events import (
    CredentialsPublished,
    LoginRejected,
    PoolRotated,
    SourceRecovered,
    SourceUnusable,
)
from ephemeral_creds.lifecycle.policy import Tuning

if TYPE_CHECKING:
    from pathlib import Path

    from twins import Setup

    from canary import Canary


def write(path: Path, text: str) -> None:
    """Replace a file as a sidecar does."""
    temporary = path.with_name("31415926")
    temporary.write_text(text)
    temporary.rename(path)


def write_next(setup: Setup, path: Path) -> str:
    """Mint a role, write its credentials, and return its name."""
    credentials = setup.provider.fetch().credentials
    write(
        path, f"DB_USERNAME={credentials.username}\nDB_PASSWORD={credentials.password.reveal()}\n"
    )
    return credentials.username


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "DB_USERNAME={{ .Data.username }}\nDB_PASSWORD={{ .Data.password }}",
            "has not been rendered",
        ),
        ('DB_USERNAME=app\nDB_PASSWORD="a\\u003cb"\n', "has a backslash in its quotes"),
        ("PGUSER=a\nPGPASSWORD=b\nDB_USER=c\nDB_PASSWORD=d\n", "two sets of credentials"),
        ('{"username": "app", "password": "a"b"}', "written by toJSON"),
    ],
    ids=["a placeholder", "two readings", "two pairs", "not JSON"],
)
def test_a_placeholder_is_reported_at_once_and_never_tried(
    setup: Setup, tmp_path: Path, canary: Canary, text: str, words: str
) -> None:
    canary.allow_secret_file(tmp_path)
    path = tmp_path / "creds"
    path.write_text(text)
    provider = FileProvider(path, poll_interval=0.05)
    pool = setup.pool(provider, observers=[setup.events], refresh=RefreshPolicy(), wait=False)
    with pytest.raises(ConfigurationError, match=words):
        pool.getconn(timeout=PATIENCE)
    assert not setup.events.of(LoginRejected)
    # The agent may come to it yet.
    username = write_next(setup, path)
    setup.events.wait_for(CredentialsPublished)
    with pool.connection(timeout=PATIENCE) as connection:
        assert user_of(connection) == username


def test_a_password_alone_and_a_user_that_stays(
    setup: Setup, tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    credentials = setup.provider.fetch().credentials
    path = tmp_path / "password"
    path.write_text(credentials.password.reveal())
    provider = FileProvider(path, username=credentials.username, poll_interval=0.05)
    pool = setup.pool(provider, observers=[setup.events])
    with pool.connection() as connection:
        assert user_of(connection) == credentials.username
    with setup.server.admin() as admin:
        admin.execute(f"ALTER ROLE {credentials.username} PASSWORD 'another-password'")
    path.write_text("another-password\n")
    setup.events.wait_for(PoolRotated)
    with pool.connection() as connection:
        assert user_of(connection) == credentials.username


def test_a_pool_says_why_it_does_not_use_the_new_file(
    setup: Setup, tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    path = tmp_path / "creds"
    first = write_next(setup, path)
    pool = setup.pool(
        FileProvider(path, poll_interval=0.05),
        refresh=RefreshPolicy(_tuning=Tuning(source_patience=0.2)),
        observers=[setup.events],
    )
    write(path, "garbage-of-a-template\n")
    setup.events.wait_for(SourceUnusable)
    status = pool.status()
    assert f"{path}: line 1 is not KEY=VALUE" in (status.keeper.source_error or "")
    assert status.ready
    with pool.connection() as connection:
        assert user_of(connection) == first
    second = write_next(setup, path)
    setup.events.wait_for(SourceRecovered)
    setup.events.wait_for(PoolRotated)
    assert pool.status().keeper.source_error is None
    with pool.connection() as connection:
        assert user_of(connection) == second
    assert "garbage" not in repr(setup.events.of(SourceUnusable))
