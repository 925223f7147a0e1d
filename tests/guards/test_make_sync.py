"""How the pools for threads are made from those for asyncio: see CONTRIBUTING.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "tools" / "make_sync.py"


@pytest.fixture
def make_sync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sync", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pool(make_sync: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules, and a script that has one pattern and leaves the format alone."""
    files = tuple(tmp_path / "_async" / name for name in ("one.py", "two.py"))
    monkeypatch.setattr(make_sync, "FILES", files)
    monkeypatch.setattr(make_sync, "PATTERNS", ((r"\bawait ", ""),))
    monkeypatch.setattr(make_sync, "ruff", lambda source, *_: source)
    (tmp_path / "_async").mkdir()
    (tmp_path / "_sync").mkdir()
    (tmp_path / "_async" / "one.py").write_text("await f()\n")
    (tmp_path / "_async" / "two.py").write_text("g()\n")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "twin"),
    [
        ("    async def get(self) -> ACT:\n", "    def get(self) -> CT:\n"),
        ("async with self._lock:\n", "with self._lock:\n"),
        ("return await super().get()\n", "return super().get()\n"),
        ("async def __aexit__(self):\n", "def __exit__(self):\n"),
        ("raise StopAsyncIteration\n", "raise StopIteration\n"),
        ("[n async for n in await alisten()]\n", "[n for n in listen()]\n"),
        (
            "from a.pool._async.worker import AsyncWorker\n",
            "from a.pool._sync.worker import Worker\n",
        ),
        ("from psycopg_pool.pool_async import A\n", "from psycopg_pool.pool import A\n"),
        ("await discard_async(self, conn)\n", "discard(self, conn)\n"),
        ("check: Callable[[ACT], Awaitable[None]]\n", "check: Callable[[CT], None]\n"),
        ("await in_thread(self.keeper.close, 5.0)\n", "self.keeper.close(5.0)\n"),
        ("import asyncio\nlock = asyncio.Lock()\n", "import threading\nlock = threading.Lock()\n"),
        ("from a.keeper.loop import in_thread\nx()\n", "x()\n"),
        ("x()\nrequire_asyncio('open()')\ny()\n", "x()\ny()\n"),
    ],
)
def test_the_twin_of_a_line(make_sync: Any, source: str, twin: str) -> None:
    assert make_sync.convert(source)[0] == twin


@pytest.mark.parametrize(
    "line", ["from keeper.keeper_async import AsyncCredentialKeeper\n", "asynchronous = awaited\n"]
)
def test_lines_of_both_pools_stay_the_same(make_sync: Any, line: str) -> None:
    assert make_sync.convert(line)[0] == line


def test_it_makes_what_is_missing_and_says_what_is_out_of_date(
    make_sync: Any, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_sync.main([]) == 0
    assert (pool / "_sync" / "one.py").read_text() == make_sync.HEADER.format("one.py") + "f()\n"
    assert make_sync.main(["--check"]) == 0
    capsys.readouterr()

    (pool / "_async" / "two.py").write_text("h()\n")
    assert make_sync.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "two.py is out of date" in told
    assert "one.py" not in told
    assert (pool / "_sync" / "two.py").read_text().endswith("g()\n")


def test_a_pattern_that_nothing_has_fails(
    make_sync: Any, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pool / "_async" / "one.py").write_text("f()\n")
    for arguments in ([], ["--check"]):
        assert make_sync.main(arguments) == 1
        assert repr(r"\bawait ") in capsys.readouterr().err
