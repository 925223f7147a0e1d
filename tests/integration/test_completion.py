"""Completion of the command line, in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.cli import main
from ephemeral_creds.cli._completion_options import SHELLS
from ephemeral_creds.providers.url import url_schemes

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("shtab", reason="the extra completion is not installed")

# Prints what a line may be completed to, a word a line. The last word is the one to complete.
DRIVERS = {
    "bash": """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
compopt() { :; }
_ephemeral_creds
printf '%s\\n' "${COMPREPLY[@]}"
""",
    # The line editor needs a terminal. What Tab has made of the line is printed by echo.
    "zsh": """\
zmodload zsh/zpty
zpty shell 'TERM=dumb zsh -f -i'
zpty -w shell "PROMPT=; fpath=(${1:h} \\$fpath); autoload -Uz compinit; compinit -u -D;" \\
    'bindkey "^I" complete-word; print REA""DY'
zpty -r -m shell out '*READY*'
zpty -n -w shell "${(j: :)@[2,-1]}"$'\\t\\x01echo LINE \\n'
zpty -w shell 'print DO""NE'
zpty -r -m shell out '*DONE*'
print -r -- "$out"
zpty -d shell
""",
    "fish": """\
source $argv[1]
complete -C "$argv[2..]"
""",
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    return name


@pytest.fixture
def script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    path = tmp_path / "_ephemeral-creds"
    path.write_text(capsys.readouterr().out)
    return path


def complete(shell: str, script: Path, *words: str) -> set[str]:
    """Return what the last word may be completed to; with zsh, what it is completed to."""
    driver = script.with_name("driver")
    driver.write_text(DRIVERS[shell])
    folder = script.parent
    done = subprocess.run(
        [shell, str(driver), str(script), "ephemeral-creds", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    if shell == "zsh":
        return {line.split()[-1] for line in lines if line.startswith("LINE ")}
    return {line.split("\t")[0] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["che"], "check"),
        (["check", "--js"], "--json"),
        (["exec", "--gra"], "--grace"),
        (["demo", "--source", "fi"], "file"),
        (["completion", "zs"], "zsh"),
        (["check", "vault-s"], "vault-static://"),
        (["agent", "vault-s"], "vault-static://"),
        (["agent", "dri"], "driver"),
        (["agent", "vault://role", "dri"], "driver"),
        (["demo", "--vault", "dri"], "driver"),
        (["exec", "--", "readlin"], "readlink"),
        (["exec", "vault://role", "--", "cat", "dri"], "driver"),
    ],
)
def test_a_word_is_completed(shell: str, script: Path, words: list[str], completed: str) -> None:
    assert complete(shell, script, *words) == {completed}


@pytest.mark.slow
def test_a_program_comes_after_two_hyphens_only(shell: str, script: Path) -> None:
    found = complete(shell, script, "exec", "readlin")
    assert found <= {"", "readlin"}


def test_all_schemes_are_in_the_script(script: Path) -> None:
    assert [scheme for scheme in url_schemes() if f"{scheme}://" not in script.read_text()] == []
