"""The man page: up to date, and understood by what shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ephemeral_creds.cli._arguments import build_parser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "man" / "ephemeral-creds.1"


def run(*command: str) -> str:
    """Return what a command printed, on stderr too."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_it_is_up_to_date() -> None:
    # In a mode without site-packages: sessions that only lint have none.
    run(sys.executable, "-I", "-S", str(ROOT / "tools" / "make_man.py"), "--check")


@pytest.mark.parametrize(
    "command", [("groff", "-ww", "-man", "-Tutf8"), ("mandoc", "-Wwarning", "-Tutf8")]
)
def test_it_is_shown_without_a_warning(command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    text = run(*command, str(PAGE))
    assert "EPHEMERAL-CREDS(1)" in text


def test_it_has_all_options() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("\\-", "-")
    parser = build_parser()
    for command in (parser, *parser.commands.values()):
        for option in command._option_string_actions:
            assert option in ("-h", "--help") or f"\\fB{option}\\fR" in text
