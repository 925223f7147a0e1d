"""A pytest plugin that fails the run if a secret shows up where it could be read.

Every `Secret` made during the run is remembered (if it is at least 8 characters long and does not
look like an ordinary word), and so is what a test registers. From then on it is searched for in
the captured output, the log records of every level, the warnings, the error messages and fixture
values of each test, and at the end in the text files that the tests left behind.

The search indexes each secret by its first 8 characters, so its cost depends on the length of
the text only: about a microsecond for ten characters.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import hypothesis
import pytest

from ephemeral_creds._values import Secret

if TYPE_CHECKING:
    import warnings
    from collections.abc import Generator, Iterator
    from pathlib import Path

__all__ = ["Canary"]

_LENGTH = 8
_LARGEST_FILE = 4 * 1024 * 1024
_PACKAGE = "ephemeral_creds"
_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({})))

_active: list[Canary] = []  # a stack: pytester runs a session within a session
_real_init = Secret.__init__
_real_readouterr = pytest.CaptureFixture.readouterr


@dataclass
class Canary:
    """The secrets of this run, and where they were seen."""

    leaks: list[str] = field(default_factory=list)
    _by_start: dict[str, set[str]] = field(default_factory=dict, repr=False)
    _allowed: set[Path] = field(default_factory=set)

    def register_secret(self, value: str) -> None:
        """Search for `value`, however ordinary it looks, and for its usual encodings.

        Args:
            value: at least 8 characters.
        """
        if len(value) < _LENGTH:
            raise ValueError("too short to be searched for")
        raw = value.encode("utf-8", "surrogatepass")
        for form in {
            value,
            repr(value)[1:-1],
            json.dumps(value)[1:-1],
            quote(raw, safe=""),
            base64.b64encode(raw).decode().rstrip("="),
        }:
            self._by_start.setdefault(form[:_LENGTH], set()).add(form)

    def allow_secret_file(self, path: Path) -> None:
        """Accept secrets in the file `path`, or in all files of that folder."""
        self._allowed.add(path.resolve())

    def seen_in(self, text: str) -> bool:
        """Return whether any secret is part of `text`."""
        starts = self._by_start
        for position in range(len(text) - _LENGTH + 1):
            forms = starts.get(text[position : position + _LENGTH])
            # As a tuple, since another thread may add one meanwhile.
            if forms is not None and text.startswith(tuple(forms), position):
                return True
        return False

    def check(self, text: str, where: str) -> None:
        """Note a leak if a secret is part of `text`."""
        if self.seen_in(text):
            self.leaks.append(where)

    def take_leaks(self) -> list[str]:
        """Return what was noted since the last call, each place once."""
        taken = list(dict.fromkeys(self.leaks))
        del self.leaks[: len(self.leaks)]
        return taken

    def check_files(self, folder: Path) -> None:
        """Search the text files below `folder`; binary ones are a server's own business."""
        for path in folder.rglob("*"):
            try:
                if path.is_symlink() or not path.is_file() or self._is_allowed(path):
                    continue
                if path.stat().st_size > _LARGEST_FILE:
                    continue
                data = path.read_bytes()
            except OSError:
                continue  # removed meanwhile, or made unreadable by its test
            if b"\0" not in data[:4096]:
                self.check(data.decode(errors="replace"), f"the file {path}")

    def _is_allowed(self, path: Path) -> bool:
        resolved = path.resolve()
        return any(resolved.is_relative_to(allowed) for allowed in self._allowed)


def _is_telling(value: str) -> bool:
    """Whether `value` in a text can only be that secret, not an ordinary word like "secret-id"."""
    letters = any(c.islower() for c in value) and any(c.isupper() for c in value[1:])
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return len(value) >= _LENGTH and len(set(value)) > _LENGTH // 2 and (letters or mixed)


def _init(self: Secret, value: str) -> None:
    _real_init(self, value)
    # Hypothesis makes passwords out of anything, this library's own words included.
    if _active and _is_telling(value) and not hypothesis.currently_in_test_context():
        _active[-1].register_secret(value)


def _readouterr(self: pytest.CaptureFixture[str]) -> object:
    # What a test takes for itself is missing from its report.
    result = _real_readouterr(self)
    for stream, content in zip(("out", "err"), result, strict=True):
        if _active and isinstance(content, str):
            _active[-1].check(content, f"captured std{stream}")
    return result


class _Handler(logging.Handler):
    """Formats every record as a user's handler would, with its arguments and extras."""

    def __init__(self, canary: Canary) -> None:
        super().__init__(level=1)
        self._canary = canary

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a wrong format string; pytest's own handler complains about it
            text = str(record.msg)
        extras = [value for key, value in vars(record).items() if key not in _RECORD_FIELDS]
        self._canary.check(
            f"{text}\n{record.args!r}\n{extras!r}",
            f"a log record of {record.name}, {record.filename}:{record.lineno}",
        )


class _Plugin:
    """The hooks of one session."""

    def __init__(self, canary: Canary) -> None:
        self._canary = canary
        self._handler = _Handler(canary)
        self._outside: list[str] = []

    def start(self) -> None:
        _active.append(self._canary)
        setattr(Secret, "__init__", _init)  # noqa: B010  mypy is right, this is not for others
        setattr(pytest.CaptureFixture, "readouterr", _readouterr)  # noqa: B010
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(1)  # what a user sees at DEBUG counts too
        root.addHandler(self._handler)

    def stop(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level)
        _active.remove(self._canary)
        if not _active:
            setattr(Secret, "__init__", _real_init)  # noqa: B010
            setattr(pytest.CaptureFixture, "readouterr", _real_readouterr)  # noqa: B010

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        canary = self._canary
        for name, content in report.sections:
            canary.check(content, name.lower())
        for message in _messages(report.longrepr):
            canary.check(message, "an error message")
        if call.when == "call":
            for name, value in getattr(item, "funcargs", {}).items():
                if type(value).__module__.startswith(_PACKAGE):
                    canary.check(f"{value!r} {value!s}", f"the repr of fixture {name}")
        if leaks := canary.take_leaks():
            report.outcome = "failed"
            report.longrepr = f"{report.longreprtext}\nSECRET LEAKED into {', '.join(leaks)}"
        return report

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, nodeid: str
    ) -> None:
        if self._canary.seen_in(str(warning_message.message)):
            self._outside.append(f"a warning of {nodeid or 'the session'}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for thing in gc.get_objects():
            kind = type(thing)
            # Not isinstance(), which asks a lazy object of Django's what it is.
            if not issubclass(kind, type) and kind.__module__.startswith(_PACKAGE):
                self._canary.check(repr(thing), f"the repr of a {kind.__qualname__}")
        base = getattr(getattr(session.config, "_tmp_path_factory", None), "_basetemp", None)
        if base is not None:  # else no test has asked for a folder
            self._canary.check_files(base)
        self._outside += self._canary.take_leaks()
        if self._outside:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (output := getattr(session.config, "workeroutput", None)) is not None:
            output["secrets leaked"] = self._outside

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what one of pytest-xdist's workers has found."""
        self._outside += getattr(node, "workeroutput", {}).get("secrets leaked", [])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._outside:
            terminalreporter.section("secrets leaked", red=True)
            for place in dict.fromkeys(self._outside):
                terminalreporter.line(f"SECRET LEAKED into {place}", red=True)


def _messages(longrepr: object) -> Iterator[str]:
    """Yield what an exception says, not the lines of source around it: tests name secrets."""
    for trace, crash, _ in getattr(longrepr, "chain", ()):
        # A cause that was never raised has no place where it crashed, only its own text.
        yield str(trace) if crash is None else crash.message
    if isinstance(longrepr, str):
        yield longrepr


_PLUGIN = pytest.StashKey[_Plugin]()
_CANARY = pytest.StashKey[Canary]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("log_level") is None and not config.getini("log_level"):
        config.option.log_level = "INFO"  # else DEBUG floods the reports: the root lets it pass
    canary = config.stash[_CANARY] = Canary()
    plugin = config.stash[_PLUGIN] = _Plugin(canary)
    plugin.start()
    config.pluginmanager.register(plugin, "secret-canary")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_PLUGIN].stop()


@pytest.fixture
def canary(request: pytest.FixtureRequest) -> Canary:
    """The secrets of this run: to register one, or to allow it in a file."""
    return request.config.stash[_CANARY]
