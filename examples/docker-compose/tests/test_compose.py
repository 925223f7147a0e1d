"""`examples/docker-compose` in containers: a service under load while its role changes.

Only `nox -s containers` runs this, and only with an engine that has the images already.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from example_world import EXAMPLES
from load import Load, add_and_read
from minting import PATIENCE
from twins import wait_until

from docker_engine import find_compose, require_images
from ephemeral_creds.testing._process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "EPHEMERAL_CREDS_CONTAINERS" not in os.environ, reason="only `nox -s containers` runs it"
    ),
]

FOLDER = EXAMPLES / "docker-compose"
FILE = FOLDER / "compose.yaml"
USERS = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'v-approle-%'"


def images() -> set[str]:
    """Return the images that are named, of services and in the Dockerfile."""
    services = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"].values()
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    return {service["image"] for service in services if "image" in service} | set(
        re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    )


class Stack:
    """All services of the example, as a project of this process."""

    def __init__(self, compose: list[str]) -> None:
        self._port = free_port()
        self._compose = [*compose, "-p", f"ephemeral-creds-{os.getpid()}", "-f", str(FILE)]
        self._environment = {
            **os.environ,
            "APP_PORT": str(self._port),
            "DEFAULT_TTL": "5s",
            "MAX_TTL": "10s",
        }

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._compose, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self) -> None:
        try:
            self.run("up", "-d")
        except AssertionError as error:
            error.add_note(self.logs("vault-setup", "vault-agent", "app"))
            raise
        wait_until(self.is_ready, "the service")

    def logs(self, *services: str) -> str:
        return self.run("logs", "--no-color", *services)

    def ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("/readyz")["ready"])
        except OSError:  # it does not listen yet, or says 503
            return False

    def has_reached(self, generation: int) -> bool:
        return bool(self.ask("/readyz")["generation"] >= generation)

    def users(self) -> set[str]:
        """Return who the service's sessions logged in as."""
        psql = ("exec", "-T", "postgres", "psql", "-U", "postgres", "-Atc", USERS, "mydb")
        return set(self.run(*psql).split())


@pytest.fixture
def stack() -> Iterator[Stack]:
    compose = find_compose()
    if compose is None:
        pytest.skip("no Docker Compose here")
    require_images(images())
    stack = Stack(compose)
    try:
        stack.run("build")
        stack.up()
        yield stack
    finally:
        stack.run("down", "--volumes", "--rmi", "local")


def test_no_request_fails_while_the_role_changes(stack: Stack) -> None:
    users = stack.users()
    assert len(users) == 1
    with Load(add_and_read(stack.ask)) as load:
        for generation in (2, 3):
            wait_until(partial(stack.has_reached, generation), "a rotation")
            load.goes_on()
            users |= stack.users()
    assert load.failures == []
    assert len(users) >= 3, "each generation is a user of its own"
    passwords = stack.run("exec", "-T", "app", "cat", "/vault/secrets/db-creds.txt")
    password = passwords.partition("DB_PASSWORD=")[2].strip()
    assert password
    assert password not in stack.logs("app", "vault-agent")


def test_it_starts_again_after_a_stop(stack: Stack) -> None:
    stack.ask("/jobs?payload=x", "POST")
    stack.run("stop")
    said = stack.logs("app")
    assert "Application shutdown complete." in said
    assert "Traceback" not in said
    stack.up()
    assert stack.ask("/jobs?payload=x", "POST") == {"id": 1}, "nothing is left of before"
