"""`examples/vm` on a machine with systemd, its units as they are: from delivery to reboot.

Only `nox -s containers` runs this, and only with an engine that has the images already.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from machine_world import IMAGES, UNITS, MachineWorld
from twins import wait_until

from docker_engine import docker, require_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from canary import Canary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "EPHEMERAL_CREDS_CONTAINERS" not in os.environ, reason="only `nox -s containers` runs it"
    ),
]

CREDENTIAL = "/etc/credstore.encrypted/my-app.secret-id"
# What the library and the worker log when something is not as it should be.
TROUBLE = re.compile(r"^(?:WARNING|ERROR|CRITICAL|Traceback).*", re.MULTILINE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineWorld]:
    """A machine to which a secret id was delivered, and whose service runs."""
    require_images(IMAGES)
    if docker("info", "-f", "{{.CgroupVersion}}").strip() != "2":
        pytest.skip("this Docker engine has cgroup v1, where systemd does not boot any more")
    folder = tmp_path_factory.mktemp("machine")
    with MachineWorld(folder) as world:
        world.deliver(world.wrapping_token())
        assert world.systemctl("restart", *UNITS), world.whole_journal()
        wait_until(lambda: "INFO worker: ready" in world.journal("my-app"), "the worker")
        yield world


@pytest.fixture(autouse=True)
def show_journal(world: MachineWorld, request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what the machine said after each test; pytest shows it where one fails."""
    yield
    print(world.whole_journal())


def test_a_secret_id_is_delivered_unseen(world: MachineWorld, canary: Canary) -> None:
    """No part of it is left in the open: not the wrapping token, not the secret id."""
    secret_id = world.on_machine("systemd-creds", "decrypt", "--name=secret-id", CREDENTIAL, "-")
    canary.register_secret(secret_id)
    assert not canary.seen_in(world.whole_journal())
    assert not canary.seen_in(world.on_machine("cat", CREDENTIAL))
    assert not world.has_token()
    # And who has it all the same cannot use it from another machine.
    answer = world.log_in_elsewhere(secret_id)
    assert "unauthorized by CIDR restrictions" in answer


def test_no_job_fails_while_the_role_changes(world: MachineWorld) -> None:
    users = world.users()
    for _ in range(100):  # a rotation each eight jobs
        world.do_job()
        users |= world.users()
        if len(users) == 4:
            break
    assert len(users) == 4, "each generation is a user of its own"
    assert TROUBLE.findall(world.journal("my-app")) == []
    assert world.show("my-app", "NRestarts") == "0"
    assert world.query("SELECT count(*) FROM my_app.jobs WHERE done_by IS NULL") == ["0"]


def test_the_service_is_shut_in(world: MachineWorld) -> None:
    process = world.show("my-app", "MainPID")
    status = world.on_machine("cat", f"/proc/{process}/status")
    [user] = re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    assert 61184 <= int(user) <= 65519, "one that systemd has made up"
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert world.users(), "there are sessions to look at"
    assert world.unencrypted_sessions() == []


def test_a_stop_revokes_the_role(world: MachineWorld) -> None:
    assert world.systemctl("stop", "my-app")
    assert world.roles() == set()
    assert world.show("my-app", "Result") == "success"
    said = world.journal("my-app")
    assert "INFO worker: stopped" in said
    assert TROUBLE.findall(said) == []


def test_a_restart_needs_no_delivery(world: MachineWorld) -> None:
    assert world.systemctl("start", "my-app")
    world.do_job()
    before = world.users()
    assert world.systemctl("restart", "my-app")
    world.do_job()
    assert not before & world.roles(), "given back by the one that was stopped"
    assert "Traceback" not in world.whole_journal()


def test_a_reboot_needs_no_delivery(world: MachineWorld) -> None:
    before = world.users()
    world.reboot()
    world.do_job()
    assert not before & world.roles()
    assert world.show("my-app-secret-id", "ConditionResult") == "no", "nothing was delivered"
    assert "Traceback" not in world.whole_journal()


def test_a_token_that_was_already_used_is_an_alarm(world: MachineWorld) -> None:
    token = world.wrapping_token()
    world.unwrap(token)
    world.deliver(token)
    assert not world.systemctl("restart", "my-app-secret-id")
    assert world.show("my-app-secret-id", "Result") == "exit-code"
    said = world.journal("my-app-secret-id")
    assert "another party has used it: revoke the secret ids" in said
    assert "Traceback" not in said
    # The service keeps the secret id that it has.
    assert world.systemctl("restart", "my-app")
    world.do_job()


def test_an_outage_of_vault_costs_no_token(world: MachineWorld) -> None:
    token = world.wrapping_token()
    with world.no_vault():
        world.deliver(token)
        assert not world.systemctl("restart", "my-app-secret-id")
        said = world.journal("my-app-secret-id")
        assert "no answer of Vault at https://vault.example.com:8200" in said
        assert "Traceback" not in said
    wait_until(lambda: not world.has_token(), "another try")
