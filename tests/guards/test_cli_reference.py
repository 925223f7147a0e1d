"""The reference of the command line: exit statuses and JSON keys are those of the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo_report import REPORT
from ephemeral_creds.check.findings import Findings
from ephemeral_creds.cli._arguments import build_parser
from ephemeral_creds.cli._statuses import ExitStatus

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array of strings": list,
    "array of objects": list,
    "number or null": (int, float, type(None)),
    "string or null": (str, type(None)),
}


def rows(title: str) -> list[list[str]]:
    """Return the cells of the first table below a title."""
    _, _, rest = PAGE.partition(f"\n{title}\n")
    lines = rest[rest.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def keys(title: str) -> dict[str, str]:
    """Return the keys of a table and their types."""
    return {key: kind for first, kind, *_ in rows(title) for key in re.findall(r"`([^`]+)`", first)}


def check_object(found: dict[str, Any], documented: dict[str, str]) -> None:
    assert list(documented) == list(found) or set(documented) == set(found)
    wrong = [key for key, kind in documented.items() if not isinstance(found[key], TYPES[kind])]
    assert wrong == []


def test_the_object_of_check() -> None:
    findings = Findings("file /x")
    findings.add("file", "fail", "it is empty", "look at the template")
    found = json.loads(findings.as_json())
    documented = keys("### The JSON object of check")
    inner = {key.removeprefix("findings[]."): kind for key, kind in documented.items()
             if key.startswith("findings[]")}  # fmt: skip
    check_object(found, {k: kind for k, kind in documented.items() if "[]" not in k})
    check_object(found["findings"][0], inner)


def test_the_object_of_demo() -> None:
    report = replace(REPORT, p999_ms=None)
    check_object(json.loads(report.as_json()), keys("### The JSON object of demo"))


def test_exit_statuses() -> None:
    documented = [int(first) for first, *_ in rows("## Exit statuses") if first.isdecimal()]
    # 141 is a signal's.
    assert documented == [*ExitStatus, 141]


def test_environment_variables() -> None:
    documented = {
        name
        for first, *_ in rows("## Environment variables")
        for name in re.findall(r"[A-Z_]{3,}", first)
    }
    parser = build_parser()
    named = {
        name
        for command in (parser, *parser.commands.values())
        for names in command.manual.environment
        for name in re.findall(r"[A-Z_]{3,}", names)
    }
    assert named <= documented


@pytest.mark.parametrize("status", ExitStatus)
def test_each_exit_status_is_in_the_help_of_a_command(status: ExitStatus) -> None:
    parser = build_parser()
    assert status in parser.manual.statuses
    assert any(status in command.manual.statuses for command in parser.commands.values())
