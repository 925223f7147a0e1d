"""Arguments of ``exec`` and ``agent``, and what a program is given."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds import ConfigurationError, Credentials, Grant, Lease, Secret
from ephemeral_creds.cli import main
from ephemeral_creds.cli._agent_options import AgentOptions
from ephemeral_creds.cli._arguments import parse as parse_all
from ephemeral_creds.cli._exec_files import ProgramFiles, passfile_line
from ephemeral_creds.cli._exec_options import ExecOptions, OnRotation, split_command
from ephemeral_creds.cli._program import why_not_runnable
from ephemeral_creds.cli._signals import Arrived, Signals

if TYPE_CHECKING:
    from canary import Canary


def parse(*arguments: str) -> ExecOptions:
    own, command = split_command(["exec", *arguments])
    return ExecOptions.of(parse_all(own), command)


def test_defaults() -> None:
    assert parse("--", "psql") == ExecOptions(command=("psql",))
    parsed = parse_all(["agent", "/run/db.json"])
    assert AgentOptions.of(parsed) == AgentOptions(Path("/run/db.json"))
    assert AgentOptions.of(parsed).timeout == math.inf


def test_everything_said() -> None:
    options = parse(
        *("--user-env", "A", "--user-env", "B", "--password-env", "C", "--pg-service"),
        *("--share", "--drain", "7"),
        *("--url-env", "D=postgresql://{user}:{password}@db?a=b", "--on-rotation", "signal:hup"),
        *("--grace", "5", "--timeout", "6", "--verbose", "vault://role"),
        *("--", "program", "-c", "--", "x"),
    )
    assert options == ExecOptions(
        url="vault://role",
        command=("program", "-c", "--", "x"),
        user_env=("A", "B"),
        password_env=("C",),
        url_env=(("D", "postgresql://{user}:{password}@db?a=b"),),
        pg_service=True,
        share=True,
        drain=7.0,
        on_rotation=OnRotation("signal", signal.SIGHUP),
        grace=5.0,
        timeout=6.0,
        verbose=True,
    )
    parsed = parse_all(
        ["agent", "vault://role", "x.json", "--mode", "0640", "--group", "app", "--drain", "9"]
    )
    assert AgentOptions.of(parsed) == AgentOptions(
        Path("x.json"), url="vault://role", mode=0o640, group="app", drain=9.0
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["exec"],
        ["exec", "vault://role"],
        ["exec", "vault://role", "--"],
        ["exec", "vault://role", "psql", "--", "x"],
        ["exec", "--on-rotation", "reload", "--", "x"],
        ["exec", "--on-rotation", "restart:HUP", "--", "x"],
        ["exec", "--on-rotation", "signal:NONE", "--", "x"],
        ["exec", "--on-rotation", "signal:", "--", "x"],
        ["exec", "--grace", "-1", "--", "x"],
        ["exec", "--timeout", "inf", "--", "x"],
        ["exec", "--user-env", "A B", "--", "x"],
        ["exec", "--url-env", "A", "--", "x"],
        ["exec", "--url-env", "A=postgresql://db", "--", "x"],
        ["exec", "--url-env", "1={user}", "--", "x"],
        ["agent"],
        ["agent", "file", "--mode", "9"],
        ["agent", "file", "--drain", "soon"],
    ],
)
def test_wrong_arguments_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(wrong)
    assert exit_.value.code == 2


def test_other_commands_keep_their_arguments() -> None:
    assert split_command(["check", "--", "x"]) == (["check", "--", "x"], ())
    assert split_command(["exec", "--help"]) == (["exec", "--help"], ())


@pytest.mark.parametrize("command", ["exec", "agent"])
def test_help_has_an_example_and_the_exit_status(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"ephemeral-creds {command} " in text
    assert "exit status" in text


@pytest.mark.parametrize(
    ("username", "password", "line"),
    [
        ("app", "secret", "*:*:*:app:secret\n"),
        ("a:p", "s:c\\r", "*:*:*:a\\:p:s\\:c\\\\r\n"),
        ("ap\\", "# x ", "*:*:*:ap\\\\:# x \n"),
    ],
)
def test_passfile_lines(username: str, password: str, line: str) -> None:
    assert passfile_line(username, password) == line


@pytest.mark.parametrize("character", ["\n", "\r", "\0"])
def test_a_passfile_cannot_hold_line_breaks(character: str) -> None:
    with pytest.raises(ConfigurationError, match="password has a line break"):
        passfile_line("app", f"pass{character}word")
    with pytest.raises(ConfigurationError, match="user name has a line break"):
        passfile_line(f"a{character}", "password")


def grant(number: int, password: str = "") -> Grant:
    credentials = Credentials(f"user:{number}", Secret(password or f"program-Password/{number}"))
    return Grant(credentials, Lease(0.0), generation=number)


def test_a_program_is_given_files_and_only_the_variables_that_were_asked_for(
    tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environ = {"TMPDIR": str(tmp_path), "PGPASSWORD": "old", "PGHOST": "db"}
    canary.allow_secret_file(tmp_path)
    with ProgramFiles(ExecOptions(pg_service=True), environ) as files:
        files.write([grant(2), grant(1)])
        found = files.environment(grant(2))
        passfile, service = Path(found["PGPASSFILE"]), Path(found["PGSERVICEFILE"])
        assert passfile.read_text() == (
            "*:*:*:user\\:2:program-Password/2\n*:*:*:user\\:1:program-Password/1\n"
        )
        assert service.read_text() == "[ephemeral_creds]\nuser=user:2\n"
        assert found == {
            "TMPDIR": str(tmp_path),
            "PGHOST": "db",
            "PGUSER": "user:2",
            "PGPASSFILE": str(passfile),
            "PGSERVICEFILE": str(service),
            "PGSERVICE": "ephemeral_creds",
        }
    assert list(tmp_path.iterdir()) == []
    with ProgramFiles(ExecOptions(share=True), environ) as files:
        found = files.environment(grant(1))
        assert found["EPHEMERAL_CREDS_URL"] == f"file://{files.shared}"
    template = ("URL", "x://{user}:{password}@db/{user}")
    with ProgramFiles(ExecOptions(url_env=(template,)), environ) as files:
        url = files.environment(grant(3, "{user}%"))["URL"]
        assert url == "x://user%3A3:%7Buser%7D%25@db/user%3A3"


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (ExecOptions(password_env=("PASS", "WORD")), "PASS, WORD"),
        (ExecOptions(url_env=(("URL", "x://{user}:{password}@two"), ("WHO", "{user}"))), "URL"),
        (ExecOptions(user_env=("WHO",), url_env=(("URL", "x://{user}@two"),)), ""),
    ],
)
def test_a_variable_is_refused_where_each_server_takes_its_own_password(
    tmp_path: Path, canary: Canary, options: ExecOptions, refused: str
) -> None:
    canary.allow_secret_file(tmp_path)
    word = Secret("password-Of/one")
    each = (("one:5432", word), ("two:5432", Secret("password-Of/two")))
    of_two = Grant(Credentials("app", word, passwords=each), Lease(0.0), generation=1)
    with ProgramFiles(options, {"TMPDIR": str(tmp_path)}) as files:
        files.write([of_two])
        if refused:
            said = rf"^{refused}: .* each of one:5432, two:5432 takes a token of its own: name one"
            with pytest.raises(ConfigurationError, match=said):
                files.environment(of_two)
        else:
            passfile = Path(files.environment(of_two)["PGPASSFILE"]).read_text()
            assert passfile.splitlines() == [
                "one:5432:*:app:password-Of/one",
                "two:5432:*:app:password-Of/two",
            ]


def test_the_directory_is_private_and_removed(tmp_path: Path) -> None:
    with ProgramFiles(ExecOptions(), {"XDG_RUNTIME_DIR": str(tmp_path)}):
        [folder] = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="PGSERVICE is set"):
        ProgramFiles(ExecOptions(pg_service=True), {"PGSERVICE": "x"})


def test_programs_that_cannot_be_run_are_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    assert why_not_runnable("sh") is None
    assert [
        (why_not_runnable(name) or (0,))[0]
        for name in ("no-such-program", f"{tmp_path}/none", f"{tmp_path}/text", str(tmp_path))
    ] == [127, 127, 126, 126]


def test_signals_are_handed_out_one_by_one() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Signals([signal.SIGUSR1]) as signals:
        assert signals.wait(0.0) is None
        signal.raise_signal(signal.SIGUSR1)
        assert signals.wait(60.0) == Arrived(signal.SIGUSR1)
        signals.wake()
        assert signals.wait(60.0) is None
        signal.raise_signal(signal.SIGUSR1)
    # What came too late is forgotten.
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    signals.wake()


def test_a_wake_up_reaches_the_thread_that_waits() -> None:
    ended = threading.Event()
    # It was there before, and blocks nothing.
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with Signals([signal.SIGUSR1]) as signals:
            signals.wake()
            assert signal.SIGCHLD in signal.sigpending()
            assert signals.wait(60.0) is None
    finally:
        ended.set()
        thread.join()


def test_systems_without_a_timed_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "sigtimedwait")
    with Signals([signal.SIGUSR1]) as signals:
        assert signals.wait(0.0) is None
        signal.raise_signal(signal.SIGUSR1)
        assert signals.wait(60.0) == Arrived(signal.SIGUSR1)
