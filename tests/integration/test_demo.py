"""The command as a whole, in a process of its own: figures, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from differences import needs
from ephemeral_creds.testing import VaultAdmin, find_vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds.testing import VaultServer

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.vault]

PROCESSES = Path("/proc")
# The demo's own sixteen want all of a machine that servers and other tests need, too; its leases
# of four seconds leave two for a renewal.
FEW = ("--workers", "2")


class Place:
    """A folder for all temporary files, by which whatever is left can be told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_", "PG"))}
        return subprocess.Popen(
            [sys.executable, "-m", "ephemeral_creds", "demo", *arguments],
            env=kept | variables | {"TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def files(self) -> list[Path]:
        return list(self.folder.iterdir())

    def processes(self) -> list[str]:
        """Return the commands of the processes that were started with this folder."""
        mark = f"TMPDIR={self.folder}".encode()
        found = []
        for entry in PROCESSES.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="demo-test-")).resolve()
    folder.chmod(0o755)  # PostgreSQL may have to run as another user
    yield Place(folder)
    shutil.rmtree(folder, ignore_errors=True)


def finish(demo: subprocess.Popen[str], place: Place) -> tuple[int, str, str]:
    """Wait for the end, and see that nothing is left."""
    try:
        out, err = demo.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        demo.kill()
        out, err = demo.communicate()
        pytest.fail(f"the demo did not end: {err}")
    assert place.files() == []
    assert place.processes() == []
    return demo.returncode, out, err


def result(out: str) -> dict[str, Any]:
    lines = out.splitlines()
    assert len(lines) == 1, "stdout is for the object alone"
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_queries_do_not_notice_a_rotation(place: Place, vault: VaultServer) -> None:
    demo = place.run("--seconds", "15", *FEW, "--json")
    status, out, err = finish(demo, place)
    found = result(out)
    assert status == 0, err
    assert found["ok"]
    assert found["failed"] == 0
    assert found["queries"] > 0
    assert found["rotations"] >= 1
    assert found["renewals"] >= 2
    assert found["mints"] == found["revocations"] >= 2
    assert 4 <= found["peak_connections"] <= found["max_connections"] == 12
    assert found["roles_left"] == 0
    assert 0 < found["p50_ms"] <= found["p999_ms"]
    assert found["vault"] == vault.version
    assert found["source"] == "api"
    assert " connections rotated in " in err


def test_a_rotation_by_a_sidecar_of_a_program_of_the_users(place: Place) -> None:
    program = str(find_vault())
    demo = place.run(
        "--seconds", "15", *FEW, "--json", "--source", "file", "--vault", program
    )  # fmt: skip
    status, out, err = finish(demo, place)
    found = result(out)
    assert status == 0, err
    assert found["problems"] == []
    assert found["failed"] == 0
    assert found["queries"] > 0
    assert found["rotations"] >= 1
    assert found["renewals"] >= 2
    assert found["mints"] == found["revocations"] >= 2
    assert found["roles_left"] == 0
    assert found["source"] == "file"
    assert " connections rotated in " in err


def test_a_reader_that_has_ended_is_no_error(place: Place) -> None:
    demo = place.run("--seconds", "2", *FEW)
    assert demo.stdout is not None
    demo.stdout.close()
    demo.stdout = None
    status, _, err = finish(demo, place)
    assert status == 128 + signal.SIGPIPE
    assert "queries/s" in err
    assert "Traceback" not in err


def test_the_table_is_on_stdout_and_progress_on_stderr(place: Place) -> None:
    status, out, err = finish(place.run("--seconds", "2", *FEW), place)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("  credentials from")
    assert lines[-1].startswith("Kept: ")
    assert "queries/s" in err
    assert "credentials from" not in err
    assert "\x1b" not in out + err


def test_a_program_that_is_not_there(place: Place) -> None:
    status, out, err = finish(place.run("--vault", "/nowhere/vault"), place)
    assert (status, out) == (125, "")
    assert "/nowhere/vault" in err


def test_ctrl_c_while_a_sidecar_is_used(place: Place) -> None:
    demo = place.run("--seconds", "300", *FEW, "--json", "--source", "file")
    assert demo.stderr is not None
    for line in demo.stderr:
        if "queries/s" in line and not line.startswith("    0 s"):
            break
    else:
        pytest.fail("no load")
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGINT)
    status, out, err = finish(demo, place)
    found = result(out)
    assert status == 130
    assert "Stopped by SIGINT" in err
    assert found["interrupted"] == "SIGINT"
    assert found["ok"] is False
    assert found["failed"] == 0
    assert found["mints"] == 1
    assert found["roles_left"] == 0


# From before the first server runs until after the load has begun.
@pytest.mark.parametrize("delay", [0.3, 0.8, 1.3, 2.0])
def test_a_signal_at_any_moment_leaves_nothing(place: Place, delay: float) -> None:
    demo = place.run("--seconds", "300")
    time.sleep(delay)
    demo.terminate()
    status, _, err = finish(demo, place)
    # Before it listens for signals, it has started nothing and ends as any process does.
    assert status in {143, -signal.SIGTERM}, err
    assert "Traceback" not in err


@needs("namespaces")
def test_an_external_vault_with_namespaces(place: Place, vault: VaultServer) -> None:
    admin = VaultAdmin(vault)
    admin.call("POST", "sys/namespaces/demo", {})
    demo = place.run(
        "--external", "--seconds", "1", *FEW, "--json",
        VAULT_ADDR=vault.address, VAULT_TOKEN=vault.root_token.reveal(), VAULT_NAMESPACE="demo",
    )  # fmt: skip
    status, out, err = finish(demo, place)
    assert status == 0, err
    assert result(out)["mints"] == 1
    # Engines are in the namespace, and gone.
    assert "ephemeral" not in str(admin.call("GET", "demo/sys/mounts").data)


def test_an_external_vault_is_left_as_it_was(place: Place, vault: VaultServer) -> None:
    admin = VaultAdmin(vault)
    admin.enable_auth("approle")

    def state() -> list[object]:
        mounts, auths = (set(admin.call("GET", path).data) for path in ("sys/mounts", "sys/auth"))
        policies = admin.call("GET", "sys/policies/acl?list=true").data["keys"]
        return [mounts, auths, sorted(policies)]

    before = state()
    demo = place.run(
        "--external", "--seconds", "2", *FEW, "--json",
        VAULT_ADDR=vault.address, VAULT_TOKEN=vault.root_token.reveal(),
    )  # fmt: skip
    status, out, err = finish(demo, place)
    found = result(out)
    assert status == 0, err
    assert found["failed"] == 0
    assert found["mints"] == found["revocations"] == 1
    assert found["vault"].startswith("external ")
    assert state() == before


def test_leftovers_in_an_external_vault_are_named_with_the_figures(
    place: Place, vault: VaultServer
) -> None:
    admin = VaultAdmin(vault)
    everything = ["create", "read", "update", "delete", "list", "sudo"]
    policy = admin.write_policy(
        "no-unmounting", {"*": everything, "sys/mounts/+": ["create", "read", "update"]}
    )
    demo = place.run(
        "--external", "--seconds", "1", *FEW, "--json",
        VAULT_ADDR=vault.address, VAULT_TOKEN=admin.create_token([policy]).reveal(),
    )  # fmt: skip
    status, out, err = finish(demo, place)
    found = result(out)
    assert status == 1, err
    (left,) = found["trouble"]
    mount = left.split()[0].removeprefix("sys/mounts/")
    assert f"{mount}/" in admin.call("GET", "sys/mounts").data
    admin.call("DELETE", f"sys/mounts/{mount}")
    assert found["queries"] > 0
    assert found["problems"] == [left]
    assert left in err
    assert f"{mount}/" not in admin.call("GET", "sys/auth").data
    assert mount not in admin.call("GET", "sys/policies/acl?list=true").data["keys"]


def test_an_external_vault_that_refuses_the_token(place: Place, vault: VaultServer) -> None:
    demo = place.run("--external", "--json", VAULT_ADDR=vault.address, VAULT_TOKEN="wrong")
    status, out, err = finish(demo, place)
    assert (status, out) == (125, "")
    assert "refuses the token in VAULT_TOKEN (POST sys/mounts/" in err
    assert "a token that may mount a secrets engine" in err
    assert "is left" not in err


def test_an_external_vault_that_is_not_there(place: Place) -> None:
    demo = place.run("--external", "--json", VAULT_ADDR="http://127.0.0.1:1", VAULT_TOKEN="x")
    status, out, err = finish(demo, place)
    assert (status, out) == (125, "")
    assert "the Vault at http://127.0.0.1:1 does not answer" in err


def test_an_external_vault_without_a_token(place: Place) -> None:
    status, out, err = finish(place.run("--external", VAULT_ADDR="http://127.0.0.1:1"), place)
    assert (status, out) == (125, "")
    assert "--external needs VAULT_TOKEN" in err
