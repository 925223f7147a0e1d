from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from watched_file import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    with contextlib.ExitStack() as stack:

        def make(path: Path | None = None, *args: Any, **options: Any) -> Watched:
            path = path or tmp_path / "secrets" / "db-creds.txt"
            return stack.enter_context(Watched(path, *args, **options))

        yield make
