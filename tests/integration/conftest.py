"""What the pools' scenarios share."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from twins import TWINS, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import PostgresServer


@pytest.fixture(params=list(TWINS))
def setup(
    request: pytest.FixtureRequest, postgres: PostgresServer, unique: Callable[[str], str]
) -> Iterator[Setup]:
    """Run the scenario with the sync pool, then with the async one."""
    with ExitStack() as stack:
        yield Setup(TWINS[request.param](), postgres, unique("pool"), stack)


@pytest.fixture
def empty_database(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[str]:
    """A database without the tables of other tests, which a role would have no rights to."""
    name = unique("empty")
    with closing(postgres.admin()) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
