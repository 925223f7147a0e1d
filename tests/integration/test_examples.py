"""Each example runs as it is, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ephemeral_creds.testing import DatabaseEngine

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def run(name: str, environment: dict[str, str]) -> list[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_", "PG"))}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def environment(engine: DatabaseEngine, role: str) -> dict[str, str]:
    login = engine.admin.create_approle(f"use-{role}", [engine.policy(role)])
    return {
        "VAULT_ADDR": engine.vault.address,
        "VAULT_ROLE": role,
        "VAULT_ROLE_ID": login.role_id,
        "VAULT_SECRET_ID": login.secret_id.reveal(),
        "DB_CONNINFO": engine.postgres.conninfo(),
    }


def test_api_service(engine: DatabaseEngine, role: str, environment: dict[str, str]) -> None:
    lines = run("api_service.py", environment)
    users = {line.partition(" as ")[2] for line in lines}
    assert len(lines) == 3
    assert len(users) == 1
    assert users.pop().startswith("v-")
    assert engine.leases(role) == []


def test_file_sidecar(engine: DatabaseEngine, role: str, tmp_path: Path) -> None:
    data = engine.read(role).data
    file = tmp_path / "db-creds.txt"
    file.touch(0o600)
    file.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD={data['password']}")
    try:
        lines = run(
            "file_sidecar.py", {"DB_CREDS": str(file), "DB_CONNINFO": engine.postgres.conninfo()}
        )
    finally:
        file.unlink()
    assert lines == [f"request {n}: served as {data['username']}" for n in range(3)]


def test_shared_keeper(engine: DatabaseEngine, role: str, environment: dict[str, str]) -> None:
    lines = [line.split(": ") for line in run("shared_keeper.py", environment)]
    assert [pool for pool, _ in lines] == ["requests", "reports"] * 2
    users = [user for _, user in lines]
    assert users[0] == users[1] != users[2] == users[3]
    assert engine.mints(role) == 2
    assert engine.leases(role) == []


def test_retry(engine: DatabaseEngine, role: str, environment: dict[str, str]) -> None:
    assert run("retry.py", environment) == ["decorator: 42", "loop: 42"]
    assert engine.leases(role) == []


def test_events(environment: dict[str, str]) -> None:
    lines = dict(line.split(" ", 1) for line in run("events.py", environment))
    health, events = json.loads(lines["health"]), json.loads(lines["events"])
    assert health["ready"]
    assert health["generation"] == 2
    assert health["problems"] == {}
    assert events["CredentialsIssued"] == events["CredentialsPublished"] == 2
    assert events["LeaseRevoked"] == 2
