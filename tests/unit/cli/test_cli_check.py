"""What a check says, and how."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, cast

import pytest

from ephemeral_creds.cli import main
from ephemeral_creds.cli._arguments import build_parser
from ephemeral_creds.cli._check.credentials import CredentialSteps
from ephemeral_creds.cli._check.findings import Findings
from ephemeral_creds.cli._check.options import CheckOptions
from ephemeral_creds.testing import FakeClock, ScriptedProvider

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds.cli._check.database import RoleSession


def parse(*arguments: str) -> CheckOptions:
    return CheckOptions.of(build_parser().parse_args(["check", *arguments]))


def test_defaults() -> None:
    assert parse() == CheckOptions()


def test_everything_said() -> None:
    said = parse("file:///x", "--conninfo", "host=db", "--dry-run", "--json", "--allow-warnings")
    assert said == CheckOptions("file:///x", "host=db", True, True, True)


def findings() -> Findings:
    made = Findings("file /x")
    made.add("url", "ok", "means\n file /x")
    made.add("revocation", "fail", "word " * 30, "write\n  DROP ROLE x;\nand that")
    return made


def test_people_get_columns_and_statements_to_copy() -> None:
    lines = findings().as_text().splitlines()
    assert lines[0] == "file /x"
    assert lines[2] == "ok      url         means file /x"
    assert lines[3].startswith("fail    revocation  word word")
    assert lines[4].startswith(" " * 20 + "word")
    assert lines[5:8] == [
        " " * 20 + "-> write", " " * 20 + "     DROP ROLE x;", " " * 20 + "   and that",
    ]  # fmt: skip
    assert lines[-1] == "it does not work"
    assert max(map(len, lines)) <= 100


def test_machines_get_one_object() -> None:
    said = json.loads(findings().as_json())
    assert (said["target"], said["status"]) == ("file /x", "fail")
    assert said["findings"][0] == {
        "step": "url", "level": "ok", "text": "means file /x", "remedy": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "severity"),
    [((), 0), (("ok", "skipped"), 0), (("ok", "warn"), 1), (("fail", "warn"), 2)],
)
def test_the_worst_finding_is_the_status(levels: tuple[str, ...], severity: int) -> None:
    made = Findings("x")
    for level in levels:
        made.add("step", level, "text")  # type: ignore[arg-type]
    assert made.severity == severity


def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_URL", raising=False)
    assert main(["check"]) == 2
    assert "EPHEMERAL_CREDS_URL" in capsys.readouterr().out


def test_without_a_database_the_rest_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "creds"
    path.write_text("DB_USERNAME=me\nDB_PASSWORD=mine")
    path.chmod(0o600)
    assert main(["check", f"file://{path}", "--json"]) == 0
    levels = {f["step"]: f["level"] for f in json.loads(capsys.readouterr().out)["findings"]}
    assert levels == {"url": "ok", "file": "ok", "credentials": "ok", "connect": "skipped"}


def test_a_connection_string_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "creds"
    path.write_text("DB_USERNAME=me\nDB_PASSWORD=mine")
    path.chmod(0o600)
    assert main(["check", f"file://{path}", "--conninfo", "host"]) == 2
    assert "libpq understands" in capsys.readouterr().out


def test_without_libpq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ephemeral_creds.cli._check.run", None)
    assert main(["check", "file:///x"]) == 2
    assert "psycopg[binary]" in capsys.readouterr().err


class AgeingSession:
    """A session of a role that may log in for `left` seconds more."""

    def __init__(self, left: float) -> None:
        self._left = left

    def valid_until(self) -> float:
        return 1e9 + self._left

    def clock(self) -> tuple[float, float]:
        return 1e9, 1e9


@pytest.mark.parametrize(("passed", "level"), [(0.0, "warn"), (100.0, "ok")])
def test_time_that_has_passed_since_the_mint_is_no_clock_that_is_wrong(
    passed: float, level: str
) -> None:
    found, provider = Findings("x"), ScriptedProvider(FakeClock(), duration=3600.0)
    steps = CredentialSteps(provider, found, None)
    steps._minted_at = time.monotonic() - passed
    steps._check_expiry(cast("RoleSession", AgeingSession(3500.0)), provider.fetch())
    assert [finding.level for finding in found.found] == [level]
