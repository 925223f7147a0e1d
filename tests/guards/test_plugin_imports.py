"""The pytest plugin is loaded in every run with the package installed: it must weigh nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What the header needs to say which servers there are; all of it is the standard library's.
LIGHT = {
    "ephemeral_creds",
    "ephemeral_creds.exceptions",
    "ephemeral_creds.testing",
    "ephemeral_creds.testing._binaries",
    "ephemeral_creds.testing._process",
    "ephemeral_creds.testing._sources",
    "ephemeral_creds.testing.pytest_plugin",
}
HEAVY = {"hvac", "psycopg", "psycopg_pool", "requests", "tenacity", "watchdog", "testcontainers"}

CONFTEST = """
import sys

def pytest_unconfigure():
    print("modules:", *sorted(sys.modules))
"""


def imported(folder: Path, *options: str) -> set[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_nothing.py").write_text("def test_nothing(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("modules:")]
    return set(line.split())


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "ephemeral_creds"}


def test_a_run_without_its_fixtures_imports_only_the_plugin(tmp_path: Path) -> None:
    modules = imported(tmp_path, "-q")
    assert "ephemeral_creds.testing.pytest_plugin" in modules
    assert ours(modules) <= LIGHT
    assert not modules & HEAVY


def test_without_a_header_it_is_the_plugin_alone(tmp_path: Path) -> None:
    modules = ours(imported(tmp_path, "-q", "--no-header"))
    package = {"ephemeral_creds", "ephemeral_creds.testing"}
    assert modules == package | {"ephemeral_creds.testing.pytest_plugin"}
