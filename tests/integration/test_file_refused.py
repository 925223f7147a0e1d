"""A pool whose credential file is replaced by something that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twins import user_of

from ephemeral_creds import FileProvider, RefreshPolicy
from ephemeral_creds.events import PoolRotated, SourceRecovered, SourceUnusable

if TYPE_CHECKING:
    from pathlib import Path

    from twins import Setup

    from canary import Canary


def write_next(setup: Setup, path: Path) -> str:
    """Mint a role, write its credentials as a sidecar does, and return its name."""
    credentials = setup.provider.fetch().credentials
    temporary = path.with_name("31415926")
    temporary.write_text(
        f"DB_USERNAME={credentials.username}\nDB_PASSWORD={credentials.password.reveal()}\n"
    )
    temporary.rename(path)
    return credentials.username


def test_a_pool_says_why_it_does_not_use_the_new_file(
    setup: Setup, tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    path = tmp_path / "creds"
    first = write_next(setup, path)
    pool = setup.pool(
        FileProvider(path, poll_interval=0.05),
        refresh=RefreshPolicy(source_patience=0.2),
        observers=[setup.events],
    )
    path.write_text("garbage-of-a-template\n")
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
