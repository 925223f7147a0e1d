"""Policies: which token may do what, as far as tests need it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._wire import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WRAPPING_POLICY", "Policies"]

WRAPPING_POLICY = "response-wrapping"

# The part of Vault's built-in default policy that this emulator has endpoints for.
_DEFAULT_RULES = {
    "auth/token/lookup-self": {"read"},
    "auth/token/renew-self": {"update"},
    "auth/token/revoke-self": {"update"},
    "sys/leases/renew": {"update"},
    "sys/renew": {"update"},
    "sys/leases/lookup": {"update"},
    "sys/capabilities-self": {"update"},
    "sys/wrapping/lookup": {"update"},
    "sys/wrapping/unwrap": {"update"},
    "sys/wrapping/wrap": {"update"},
}

# What a wrapping token is good for.
_WRAPPING_RULES = {"sys/wrapping/unwrap": {"update"}}

_NEEDS_SUDO = re.compile(
    r"sys/(seal|audit/.*|leases/(revoke-prefix|lookup)/.*)|auth/token/create-orphan"
)

_RULE = re.compile(r'path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*\}')


class Policies:
    """The policies by name; ``root`` may do everything."""

    def __init__(self) -> None:
        self._rules: dict[str, dict[str, set[str]]] = {
            "default": _DEFAULT_RULES,
            WRAPPING_POLICY: _WRAPPING_RULES,
        }
        self._texts: dict[str, str] = {"default": ""}

    def write(self, name: str, text: str) -> None:
        """Create or replace a policy from JSON or from HCL without comments."""
        if name == "root":
            raise Refusal(400, 'cannot update "root" policy')
        self._rules[name] = _parse(text)
        self._texts[name] = text

    def read(self, name: str) -> str | None:
        """Return a policy's text."""
        return self._texts.get(name)

    def delete(self, name: str) -> None:
        """Remove a policy; tokens that name it keep what their other policies allow."""
        self._rules.pop(name, None)
        self._texts.pop(name, None)

    def names(self) -> list[str]:
        """Return the names of all policies."""
        return [*self._texts, "root"]

    def allow(self, names: Iterable[str], path: str, operation: str) -> bool:
        """Say whether a token with the policies `names` may do `operation` on `path`."""
        granted = self.capabilities(names, path)
        if "root" in granted:
            return True
        if _NEEDS_SUDO.fullmatch(path) and "sudo" not in granted:
            return False
        return operation in granted

    def capabilities(self, names: Iterable[str], path: str) -> set[str]:
        """Return what a token with the policies `names` may do on `path`."""
        if "root" in names:
            return {"root"}
        found: dict[str, set[str]] = {}
        for name in names:
            for pattern, capabilities in self._rules.get(name, {}).items():
                if _matches(pattern, path):
                    found.setdefault(pattern, set()).update(capabilities)
        granted = found[max(found, key=_priority)] if found else {"deny"}
        return {"deny"} if "deny" in granted else granted


def _matches(pattern: str, path: str) -> bool:
    open_ended = pattern.endswith("*")
    wanted = pattern.removesuffix("*").split("/")
    regex = "/".join("[^/]+" if part == "+" else re.escape(part) for part in wanted)
    return re.fullmatch(regex + (".*" if open_ended else ""), path) is not None


def _priority(pattern: str) -> tuple[int, bool, int, int]:
    """Order patterns as Vault's documentation does: the most exact one decides."""
    wildcards = [i for i, c in enumerate(pattern) if c in "+*"]
    first = min(wildcards, default=len(pattern) + 1)
    return first, not pattern.endswith("*"), -pattern.count("+"), len(pattern)


def _parse(text: str) -> dict[str, set[str]]:
    try:
        parsed = json.loads(text)
    except ValueError:
        rules = {}
        for path, capabilities in _RULE.findall(text):
            rules[path] = set(re.findall(r'"(\w+)"', capabilities))
        if not rules and text.strip():
            raise Refusal(400, "failed to parse policy") from None
        return rules
    return {path: set(rule["capabilities"]) for path, rule in parsed["path"].items()}
