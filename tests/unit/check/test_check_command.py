"""What a check says, and how."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.check.findings import Findings
from ephemeral_creds.cli import main
from ephemeral_creds.cli._arguments import parse as parse_all
from ephemeral_creds.cli._check_options import CheckOptions

if TYPE_CHECKING:
    from pathlib import Path


def parse(*arguments: str) -> CheckOptions:
    return CheckOptions.of(parse_all(["check", *arguments]))


def test_defaults() -> None:
    assert parse() == CheckOptions()


def test_everything_said() -> None:
    said = parse(
        *("file:///x", "--conninfo", "host=db", "--session-role", "app", "--wait", "2.5"),
        *("--dry-run", "--json", "--allow-warnings"),
    )
    assert said == CheckOptions("file:///x", "host=db", "app", 2.5, True, True, True)


@pytest.mark.parametrize("wait", ["-1", "inf", "nan", "soon"])
def test_a_wait_that_is_no_time(wait: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--wait", wait)
    assert f"must be a number of seconds, not '{wait}'" in capsys.readouterr().err


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


def test_lines_fit_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["check", "vault:/x"]) == 3
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_machines_get_one_object() -> None:
    said = json.loads(findings().as_json())
    assert (said["target"], said["status"]) == ("file /x", "fail")
    assert said["findings"][0] == {
        "step": "url", "level": "ok", "text": "means file /x", "remedy": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "status"),
    [((), "ok"), (("ok", "skipped"), "ok"), (("ok", "warn"), "warn"), (("fail", "warn"), "fail")],
)
def test_the_worst_finding_is_the_status(levels: tuple[str, ...], status: str) -> None:
    made = Findings("x")
    for level in levels:
        made.add("step", level, "text")  # type: ignore[arg-type]
    assert made.status == status


def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("EPHEMERAL_CREDS_URL", raising=False)
    assert main(["check"]) == 3
    assert "EPHEMERAL_CREDS_URL" in capsys.readouterr().out


def test_an_incomplete_check_says_so() -> None:
    made = Findings("x", complete=False)
    assert made.as_text().endswith("no problem found in the steps that ran")
    assert json.loads(made.as_json())["complete"] is False


def test_without_a_database_it_warns_and_the_rest_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "creds"
    path.write_text("DB_USERNAME=me\nDB_PASSWORD=mine")
    path.chmod(0o600)
    assert main(["check", f"file://{path}", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    levels = {f["step"]: f["level"] for f in said["findings"]}
    assert levels == {"url": "ok", "file": "ok", "credentials": "ok", "connect": "warn"}
    assert said["complete"] is False


def test_an_invalid_connection_string(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "creds"
    path.write_text("DB_USERNAME=me\nDB_PASSWORD=mine")
    path.chmod(0o600)
    assert main(["check", f"file://{path}", "--conninfo", "host"]) == 3
    assert "libpq cannot parse" in capsys.readouterr().out


def test_without_libpq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name, module in [*sys.modules.items()]:
        if name.startswith(("ephemeral_creds.check", "ephemeral_creds.cli._check")):
            # Also as an attribute of its package, where the second import puts another module.
            parent, _, child = name.rpartition(".")
            monkeypatch.setattr(f"{parent}.{child}", module)
    for name in [*sys.modules]:
        if name.startswith(("ephemeral_creds.check", "ephemeral_creds.cli._check")):
            monkeypatch.delitem(sys.modules, name)
    assert main(["check", "file:///x"]) == 125
    assert "psycopg[binary]" in capsys.readouterr().err
