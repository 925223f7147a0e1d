"""``ephemeral-creds check`` on what ``examples/vault`` sets up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from example_world import EXAMPLES, ROLE, ExampleWorld

from ephemeral_creds.check.revocation import revocation_statements
from ephemeral_creds.cli import main
from ephemeral_creds.testing import find_vault

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleWorld]:
    with ExampleWorld(find_vault(), tmp_path_factory.mktemp("world")) as running:
        running.set_up()
        yield running


@pytest.fixture
def url(world: ExampleWorld, monkeypatch: pytest.MonkeyPatch) -> str:
    token = world.admin.create_token(["my-app"], ttl="2h")
    monkeypatch.setenv("CHECK_TOKEN", token.reveal())
    return f"vault://{ROLE}?auth=token&token_env=CHECK_TOKEN&address={world.vault.address}"


def test_the_examples_role(
    world: ExampleWorld, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--session-role", "my_app", "--conninfo", world.conninfo]
    assert main(["check", url, "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "no sessions and no login any more" in found[-1]["text"]
    assert [role for role in world.postgres.roles() if ROLE[:8] in role] == []


def test_the_remedy_is_that_of_the_examples() -> None:
    statements = (EXAMPLES / "vault/revoke-role.sql").read_text().splitlines()
    assert statements == list(revocation_statements(owner="my_app"))
