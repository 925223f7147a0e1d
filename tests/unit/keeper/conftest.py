"""What each test of a keeper gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from keepers import PATIENCE, World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.provider.gate.set()
    for keeper in world.keepers:
        keeper.close(PATIENCE)
