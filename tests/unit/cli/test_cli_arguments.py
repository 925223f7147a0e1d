from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from ephemeral_creds.cli._arguments import Options, build_parser


def parse(*arguments: str) -> Options:
    return Options.of(build_parser().parse_args(["demo", *arguments]))


def test_defaults() -> None:
    expected = Options(seconds=60.0, workers=16, source="api", vault=None, json=False)
    assert parse() == expected == Options()


def test_everything_said() -> None:
    options = parse(
        "--seconds", "7.5", "--workers", "3", "--source", "file", "--vault", "/opt/bao", "--json"
    )
    assert options == Options(
        seconds=7.5, workers=3, source="file", vault=Path("/opt/bao"), json=True
    )


def test_external() -> None:
    assert parse("--external") == Options(external=True)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--seconds", "0"],
        ["--seconds", "inf"],
        ["--seconds", "nan"],
        ["--seconds", "soon"],
        ["--workers", "0"],
        ["--workers", "501"],
        ["--workers", "1.5"],
        ["--source", "env"],
        ["--vault", "/opt/bao", "--external"],
        ["more"],
    ],
)
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(*wrong)
    assert exit_.value.code == 2
    assert "usage: ephemeral-creds demo" in capsys.readouterr().err or wrong == ["more"]


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        build_parser().parse_args([])
    assert exit_.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        build_parser().parse_args(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"ephemeral-creds {metadata.version('ephemeral-creds')}\n"


def test_help_has_an_example_and_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "ephemeral-creds demo --seconds 120 --source file" in text
    assert "exit status" in text
