"""The page on how to write a provider: its provider passes the contract, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from canary import Canary

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-provider.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

_ONLY_HERE = "import os; assert self.__dict__.setdefault('pid', os.getpid()) == os.getpid()"
# Each breaks it in a way that one test has to notice.
FAULTS = {
    "mints": ('fields["user"]', "__import__('uuid').uuid4().hex", "mints_is_true"),
    "clock": ("creds.SystemClock().now()", "1.0", "a_fetch_returns_a_grant"),
    "loop": ("ask_again_in=300", "ask_again_in=0", "a_fetch_returns_a_grant"),
    "kind": ("creds.ProviderUnavailable(", "creds.MalformedResponse(", "does_not_answer"),
    "chain": ("return creds.ConfigurationError(", "raise creds.ConfigurationError(", "absent"),
    "secret": ("json.loads(done.stdout)", "self._all = json.loads(done.stdout)", "a_pickle"),
    "lines": ('f"command {', 'f"command\\n{', "the_description"),
    "fork": ("found = self._ask()", f"{_ONLY_HERE}; found = self._ask()", "a_child_of_a_fork"),
}


@pytest.mark.slow
def test_the_provider_of_the_page_passes_and_a_fault_is_found(
    tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    provider, tests = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for name, (before, after, _) in {"page": ("", "", ""), **FAULTS}.items():
        assert before in provider
        changed = provider.replace(before, after) if before else provider
        (tmp_path / f"provider_{name}.py").write_text(changed)
        test = tests.replace("from my_provider", f"from provider_{name}")
        (tmp_path / f"test_{name}.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfs", "--tb=no"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    failed = re.findall(r"^FAILED test_(\w+)\.py::\w+::test_(\w+)", said, re.MULTILINE)
    for name, (*_, test) in FAULTS.items():
        assert any(n == name and test in found for n, found in failed), f"{name}: {said}"
    assert "page" not in dict(failed), said
