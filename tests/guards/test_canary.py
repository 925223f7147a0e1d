"""The canary sings: a session with a leak fails, and one without does not."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from canary import Canary

pytest_plugins = ["pytester"]

# Put together at run time, so that this file's own source lines hold no secret.
SETUP = """
    import logging, sys, warnings
    from pathlib import Path
    import pytest
    from ephemeral_creds._values import Credentials, Secret

    VALUE = "-".join(["Kx7", "Qm2", "vT9"])

    @pytest.fixture
    def secret():
        return Secret(VALUE)
"""

LEAKS = {
    "print": "print(secret.reveal())",
    "stderr": "print(secret.reveal(), file=sys.stderr)",
    "log": "logging.getLogger('x').warning('pw %s', secret.reveal())",
    "debug log": "logging.getLogger('x').debug('pw %s', secret.reveal())",
    "log extra": "logging.getLogger('x').warning('pw', extra={'pw': secret.reveal()})",
    "logged traceback": """
        try:
            raise ValueError(secret.reveal())
        except ValueError:
            logging.getLogger('x').exception('oh')
    """,
    "error message": "raise ValueError(f'bad {secret.reveal()}')",
    "cause": "raise ValueError('bad') from RuntimeError(secret.reveal())",
    "repr": "raise ValueError(repr({'password': secret.reveal()}))",
    "warning": "warnings.warn(secret.reveal())",
    "quoted": "from urllib.parse import quote; print('postgresql://u:' + quote(secret.reveal()))",
    "base64": "import base64; print(base64.b64encode(secret.reveal().encode()).decode())",
    "taken output": "print(secret.reveal()); capsys.readouterr()",
    "temp file": "(tmp_path / 'x.json').write_text('{' + secret.reveal() + '}')",
    "registered": "canary.register_secret('password'); print('my password')",
}

CLEAN = {
    "nothing": "pass",
    "masked": "print(secret, repr(secret), Credentials('u', secret)); logging.debug('%s', secret)",
    "own words": "print('Kx7-Qm2-vT'); print('password authentication failed')",
    "ordinary": "Secret('secret-id'); Secret('aaaaaaaaa1'); print('secret-id aaaaaaaaa1')",
    "short": "Secret('s3cr3t!'); print('s3cr3t!')",
    "allowed file": "canary.allow_secret_file(tmp_path); "
    "(tmp_path / 'x').write_text(secret.reveal())",
}


def run(pytester: pytest.Pytester, body: str) -> tuple[pytest.RunResult, str]:
    write(pytester, body)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    return result, result.stdout.str()


def write(pytester: pytest.Pytester, body: str) -> None:
    test = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    pytester.makeconftest("pytest_plugins = ['canary']")
    pytester.makepyfile(
        f"{textwrap.dedent(SETUP)}\n"
        f"def test_it(secret, canary, caplog, capsys, tmp_path):\n{test}\n"
    )


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing each installed plugin again for each inner session takes seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize("body", LEAKS.values(), ids=LEAKS)
def test_fails_when_a_secret_leaks(pytester: pytest.Pytester, body: str) -> None:
    result, output = run(pytester, body)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "SECRET LEAKED into" in output


@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_passes_when_none_does(pytester: pytest.Pytester, body: str) -> None:
    result, output = run(pytester, body)
    assert result.ret == pytest.ExitCode.OK, output


def test_an_ordinary_failure_stays_one(pytester: pytest.Pytester) -> None:
    result, output = run(pytester, "assert secret == 1  # VALUE")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "SECRET LEAKED" not in output


def test_the_search_is_cheap(canary: Canary) -> None:
    from canary import Canary as Fresh

    fresh = Fresh()
    for number in range(10_000):
        fresh.register_secret(f"A1b2-{number:010}")
    text = "a log line that holds no secret, as nearly all of them do. " * 2000
    begun = time.perf_counter()
    assert not fresh.seen_in(text)
    assert time.perf_counter() - begun < 20.0  # 0.01 s in practice, for 120 kB
    assert fresh.seen_in(text + "A1b2-0000009999")
    assert canary is not fresh


def test_a_leak_at_the_end_of_a_worker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    write(pytester, LEAKS["temp file"])
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "xdist", "-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "SECRET LEAKED into the file" in result.stdout.str()
