"""Arguments: what they mean, what is said about wrong ones, and help."""

from __future__ import annotations

import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds.cli import main
from ephemeral_creds.cli._arguments import build_parser
from ephemeral_creds.cli._arguments import parse as parse_all
from ephemeral_creds.cli._demo_options import DemoOptions
from ephemeral_creds.cli._exec_options import split_command
from ephemeral_creds.providers.url import url_schemes

if TYPE_CHECKING:
    from ephemeral_creds.cli._manual import CommandParser

PARSER = build_parser()
COMMANDS = PARSER.commands
EXAMPLES = [
    example
    for parser in (PARSER, *COMMANDS.values())
    for example in parser.manual.examples.values()
]


def parse(*arguments: str) -> DemoOptions:
    return DemoOptions.of(parse_all(["demo", *arguments]))


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of what is said about arguments that are not understood."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: ephemeral-creds")
    return said.err.splitlines()[-1]


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_defaults() -> None:
    expected = DemoOptions(seconds=60.0, workers=16, source="api", vault=None, json=False)
    assert parse() == expected == DemoOptions()


def test_everything_said() -> None:
    options = parse(
        *("--seconds", "7.5", "--workers", "3", "--source", "file", "--vault", "/opt/bao"),
        *("--json", "--verbose", "--debug"),
    )
    assert options == DemoOptions(
        seconds=7.5,
        workers=3,
        source="file",
        vault=Path("/opt/bao"),
        json=True,
        verbose=True,
        debug=True,
    )


def test_external() -> None:
    assert parse("--external") == DemoOptions(external=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--seconds", "0"], "must be a number of seconds of at least 1, not '0'"),
        (["--seconds", "inf"], "must be a number of seconds of at least 1, not 'inf'"),
        (["--seconds", "nan"], "must be a number of seconds of at least 1, not 'nan'"),
        (["--seconds", "soon"], "must be a number of seconds of at least 1, not 'soon'"),
        (["--workers", "0"], "must be a number from 1 to 500, not '0'"),
        (["--workers", "501"], "must be a number from 1 to 500, not '501'"),
        (["--workers", "1.5"], "must be a number from 1 to 500, not '1.5'"),
        (["--source", "env"], "invalid choice: 'env'"),
        (["--vault", "/opt/bao", "--external"], "not allowed with argument --vault"),
        (["more"], "there is an argument too many: more"),
    ],
)
def test_wrong_arguments_are_refused(
    wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["demo", *wrong], capsys)
    assert line.startswith("ephemeral-creds demo: error: ")
    assert says in line


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["chekc"], "there is no command chekc; did you mean check?"),
        (["list"], "there is no command list; commands: check, exec, "),
        (["check", "--jsno"], "there is no option --jsno; did you mean --json?"),
        (
            ["check", "--con-info=host=db"],
            "there is no option --con-info; did you mean --conninfo?",
        ),
        (["agent", "x.json", "--xyz"], "there is no option --xyz"),
        (["check", "--js"], "there is no option --js; did you mean --json?"),
        (["exec", "vault://role", "psql"], "there is an argument too many: psql"),
        (["exec", "vault://role"], "the program is missing: put it after --"),
    ],
)
def test_a_mistake_is_answered_with_what_is_near(
    wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {says}" in refusal(wrong, capsys)


def test_without_arguments_there_is_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "examples:" in said.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    version = f"ephemeral-creds {metadata.version('ephemeral-creds')}\n"
    assert capsys.readouterr().out == version
    assert main(["--version", "--verbose"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{version}Python 3.")
    for package in ("psycopg", "psycopg-pool", "hvac"):
        assert f"\n{package} {metadata.version(package)}\n" in said
    assert re.search(r"\nlibpq \d+\.\d+ \(\w+\)\n$", said)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples_exit_statuses_and_an_address_and_fits(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(*command, capsys=capsys)
    for part in ("\nexamples:\n  # ", "\nexit status:\n  ", "\ndocumentation: https://"):
        assert part in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("parser", COMMANDS.values(), ids=COMMANDS)
def test_each_option_with_a_value_has_its_default_in_its_help(parser: CommandParser) -> None:
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            text = action.help or ""
            assert "(default: " in text or "may be repeated" in text, action


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_help_are_right(example: str) -> None:
    line = example.replace("\\\n", " ").splitlines()[-1]
    words = shlex.split(re.sub(r" \d?>.*", "", line))
    assert words[0] == "ephemeral-creds"
    own, _ = split_command(words[1:])
    parsed = parse_all(own)
    url = getattr(parsed, "url", None)
    assert url is None or url.partition("://")[0] in url_schemes()


def test_help_has_all_schemes(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("check", capsys=capsys)
    assert [scheme for scheme in url_schemes() if f"{scheme}://" not in text] == []
