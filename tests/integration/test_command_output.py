"""Where a command's output goes, and what becomes of it if that is not there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable

    from canary import Canary

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")
NOWHERE = "vault://app?address=http://127.0.0.1:1&auth=userpass&username=u&password_env=SECRET"
TRIED = "3"
"""Seconds, within which a port has refused a connection."""
ESCAPE = "\x1b"


def run(
    *arguments: str,
    stdout: int = subprocess.PIPE,
    prepare: Callable[[], Any] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_", "PG"))}
    return subprocess.run(
        [*COMMAND, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=kept | {"SECRET": "command-Password-7"} | variables,
        preexec_fn=prepare,
        timeout=120,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path, canary: Canary) -> Path:
    path = tmp_path / "credentials"
    path.write_text("DB_USERNAME=me\nDB_PASSWORD=output-Password-1\n")
    path.chmod(0o600)
    canary.allow_secret_file(path)
    return path


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["exec", "--help"], ["check"], ["check", "--json"]]
)
def test_a_reader_that_has_ended_is_no_error(arguments: list[str], file: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*arguments, stdout=writer, EPHEMERAL_CREDS_URL=f"file://{file}")
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["check"], ["check", "--json"], ["--version"], ["--help"]])
def test_output_that_cannot_be_written_is_an_error(arguments: list[str], file: Path) -> None:
    with FULL.open("wb") as full:
        done = run(*arguments, stdout=full.fileno(), EPHEMERAL_CREDS_URL=f"file://{file}")
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert line.endswith("error: standard output cannot be written: No space left on device")


def test_closed_output_is_an_error(file: Path) -> None:
    done = run("check", f"file://{file}", prepare=lambda: os.close(1))
    assert done.returncode == 125
    assert "error: standard output is closed: redirect it" in done.stderr


def test_messages_do_not_go_to_stdout_if_stderr_is_closed(file: Path) -> None:
    done = run("check", f"file://{file}", "--json", prepare=lambda: os.close(2))
    assert json.loads(done.stdout)["status"] == "warn"
    assert run("check", "--jsno", prepare=lambda: os.close(2)).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exec", "--timeout", TRIED, NOWHERE, "--", "true"], "cannot be reached"),
        (["agent", "--timeout", TRIED, NOWHERE, "{folder}/x.json"], "cannot be reached"),
        (["exec", "vaul://role", "--", "true"], "there is no such scheme; known: "),
        (["agent", "--timeout", "0.2", "file://{folder}", "{folder}/x.json"], "{folder}"),
        # Before credentials are fetched: there are none yet.
        (["agent", "file:///none", "{folder}/none/x.json"], "{folder}/none is not a directory"),
        (["agent", "file://{file}", "{file}/x.json"], "{file} is not a directory"),
        (["agent", "--group", "no-such-group", "file://{file}", "{folder}/x"], "no-such-group"),
        (["agent", "--mode", "0666", "file://{file}", "{folder}/x.json"], "mode"),
        (["agent", "--conninfo", "host", "file://{file}", "{folder}/x.json"], "conninfo"),
        (["demo", "--vault", "{file}"], "{file}"),
        (["demo", "--external"], "--external needs VAULT_TOKEN"),
    ],
)
def test_expected_trouble_is_one_line(arguments: list[str], says: str, file: Path) -> None:
    names = {"{file}": str(file), "{folder}": str(file.parent)}

    def fill(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    done = run(*map(fill, arguments), VAULT_ADDR="http://127.0.0.1:1")
    *before, line = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (125, "")
    assert line.startswith(f"ephemeral-creds {arguments[0]}: error: ")
    assert fill(says) in line
    # What a keeper reports while it waits, if anything.
    assert all("warning: " in other for other in before)
    assert [*file.parent.iterdir()] == [file]


def test_a_file_that_does_not_fit_on_its_disk(file: Path) -> None:
    full = file.with_name("x.json")
    done = run(
        *("agent", f"file://{file}", str(full)),
        prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 125
    assert f"error: {full} cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not full.exists()


def test_debug_adds_a_traceback_without_secrets() -> None:
    done = run("exec", "--debug", "--timeout", TRIED, NOWHERE, "--", "true")
    assert done.returncode == 125
    assert "Traceback (most recent call last):" in done.stderr
    assert "ProviderRequest operation=login" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ephemeral-creds exec: error: ")
    assert "command-Password-7" not in done.stderr


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_pipe_gets_no_escape_codes(term: str, file: Path) -> None:
    done = run("check", f"file://{file}", FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM=term)
    assert ESCAPE not in done.stdout
    assert done.stdout.splitlines()[-1] == "it works, with warnings"
