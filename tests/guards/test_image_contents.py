"""What Docker is sent for the examples' image is all that building the package needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "examples" / "docker-compose"


def needed() -> set[str]:
    """Return the files and folders that a wheel is built of."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    hooks = {hook["path"] for hook in wheel.get("hooks", {}).values()}
    packages = {package.partition("/")[0] for package in wheel["packages"]}
    shared = {source.partition("/")[0] for source in wheel.get("shared-data", {})}
    return {"pyproject.toml", "README.md", "LICENSE"} | hooks | packages | shared


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "tests/stand-ins/python/Dockerfile"])
def test_a_dockerfile_copies_what_a_wheel_is_built_of(dockerfile: str) -> None:
    text = (COMPOSE / dockerfile).read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (.+)$", text, re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    assert needed() <= copied


def test_docker_is_sent_what_the_dockerfile_copies() -> None:
    text = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (.+)$", text, re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in copied} == {line for line in ignored if line[0] == "!"}
