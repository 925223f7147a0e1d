"""The pytest plugin's servers in containers, by testcontainers and a real engine.

Only `nox -s containers` runs it; examples/docker-compose/tests/images.sh gets the images.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker_engine import docker, require_images

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., str]

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"
IMAGES = ("postgres:17", "openbao/openbao:2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "EPHEMERAL_CREDS_CONTAINERS" not in os.environ, reason="only `nox -s containers` runs it"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    pytest.importorskip("testcontainers")
    require_images(IMAGES)


@pytest.fixture
def run(note_servers: Callable[[str], None]) -> Run:
    """Run the tests of the example with some options, and return what pytest says."""

    def run(*options: str, ends: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=EXAMPLE,
            # Its reaper is one more image to fetch.
            env=os.environ
            | {"TESTCONTAINERS_RYUK_DISABLED": "true", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == ends, done.stdout + done.stderr
        if not ends:
            note_servers(done.stdout)
        return done.stdout

    return run


def what_is_there() -> list[str]:
    return [docker("ps", "-aq"), docker("network", "ls", "-q"), docker("volume", "ls", "-q")]


def test_both_are_containers_where_an_engine_runs(run: Run) -> None:
    before = what_is_there()
    said = run()
    assert "5 passed" in said
    assert (
        "PostgreSQL in a container of postgres:17; Vault in a container of openbao/openbao:2"
    ) in said
    assert what_is_there() == before


def test_a_vault_of_the_machine_reaches_a_contained_postgres(run: Run) -> None:
    said = run("--ephemeral-vault=wheel")
    assert "5 passed" in said
    assert "PostgreSQL in a container of postgres:17; OpenBao 2." in said


def test_a_contained_vault_does_not_reach_a_postgres_of_the_machine(run: Run) -> None:
    said = run("--ephemeral-postgres=wheel", "--ephemeral-vault=testcontainers", ends=1)
    assert "cannot reach PostgreSQL" in said
    assert "5 errors" in said


def test_an_image_that_is_not_to_be_had_is_named(run: Run) -> None:
    said = run("--ephemeral-postgres-image=ephemeral-creds/there-is-none:1", ends=1)
    assert "testcontainers cannot run ephemeral-creds/there-is-none:1" in said
