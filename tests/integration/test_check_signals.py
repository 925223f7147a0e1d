"""``ephemeral-creds check`` that is told to stop, as an init container is at its deadline."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.testing import DatabaseEngine, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing import PostgresServer, VaultServer

pytestmark = pytest.mark.slow

PATIENCE = 60.0


@pytest.fixture
def engine(own_vault: VaultServer, postgres: PostgresServer) -> DatabaseEngine:
    made = DatabaseEngine(own_vault, postgres)
    made.create_role("stopped")
    return made


def minted(engine: DatabaseEngine) -> list[str]:
    return [name for name in engine.postgres.roles() if "-stopped-" in name]


def start(engine: DatabaseEngine) -> subprocess.Popen[str]:
    # A token that is not the command's own to revoke: the role would go along with it.
    token = engine.admin.create_token([engine.policy("stopped")], ttl="2h")
    url = f"vault://stopped?auth=token&token_env=CHECK_TOKEN&address={engine.vault.address}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_", "PG"))}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ephemeral_creds", "check", url, "--json"),
            *("--conninfo", engine.postgres.conninfo()),
        ],
        env=kept | {"CHECK_TOKEN": token.reveal()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def finish(check: subprocess.Popen[str]) -> tuple[int, list[dict[str, str]], str]:
    try:
        out, err = check.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        check.kill()
        check.communicate()
        pytest.fail("the check did not end")
    return check.returncode, json.loads(out)["findings"], err


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_minted_role_is_revoked(
    engine: DatabaseEngine, own_vault: VaultServer, signum: signal.Signals, status: int
) -> None:
    own_vault.faults.add("PUT", "sys/leases/renew", Fault.hang())
    check = start(engine)
    wait_until(lambda: own_vault.faults.hanging > 0)
    assert len(minted(engine)) == 1
    check.send_signal(signum)
    returned, findings, said = finish(check)
    assert returned == status
    assert minted(engine) == []
    assert [f["step"] for f in findings][-2:] == ["expiry", "stopped"]
    assert signum.name in said


def test_a_role_that_is_being_minted_is_revoked(
    engine: DatabaseEngine, own_vault: VaultServer
) -> None:
    # The role is there, and the reply is held back until the signal is on its way.
    held = own_vault.faults.add("GET", "database/creds/stopped", Fault.late(math.inf, handled=True))
    check = start(engine)
    wait_until(lambda: own_vault.faults.hanging > 0)
    assert len(minted(engine)) == 1
    check.send_signal(signal.SIGTERM)
    own_vault.faults.remove(held)
    returned, findings, _ = finish(check)
    assert returned == 143
    assert minted(engine) == []
    assert findings[-1]["step"] == "stopped"
