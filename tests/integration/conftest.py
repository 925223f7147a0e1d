"""What the pools' scenarios share."""

from __future__ import annotations

from contextlib import ExitStack
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
