"""The steps that need no token: which node answers, over what, and in which state it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds import ConfigurationError, EphemeralCredsError, ProviderUnavailable
from ephemeral_creds.check.units import CLOCK_TOLERANCE, ahead_of
from ephemeral_creds.providers.vault.facts import Health

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings, Level
    from ephemeral_creds.providers.vault.inspect import Inspector

__all__ = ["check_nodes", "may_come_up"]

_UNSEAL = "unseal it: vault operator unseal"
_PATH_OF_ADDRESS = "set VAULT_ADDR, or address= in the URL, to where Vault listens"


@dataclass(frozen=True, slots=True)
class _Node:
    """One address, what came from there, and when, Unix time."""

    address: str
    health: Health | EphemeralCredsError
    asked_at: float


def may_come_up(inspector: Inspector) -> bool:
    """Whether no address leads to a Vault that can do something, and that may pass."""
    nodes = _ask(inspector)
    return not any(_serves(node) or isinstance(node.health, ConfigurationError) for node in nodes)


def check_nodes(inspector: Inspector, findings: Findings) -> bool:
    """Look at each address on its own; say whether one of them is enough to go on."""
    nodes = _ask(inspector)
    enough = any(map(_serves, nodes))
    for node in nodes:
        _check_answer(node, findings, "warn" if enough else "fail")
        if not isinstance(node.health, EphemeralCredsError) or len(nodes) > 1:
            _check_secrecy(inspector, node.address, findings)
    for node in nodes:
        if isinstance(node.health, Health):
            _check_seal(node.address, node.health, findings, "warn" if enough else "fail")
    for node in nodes:
        if isinstance(node.health, Health) and _serves(node):
            _check_namespace(inspector, node.health, findings)
            _check_clock(node.address, node.health, node.asked_at, findings)
    return enough


def _ask(inspector: Inspector) -> list[_Node]:
    nodes = []
    for address in inspector.config.addresses:
        begun = time.time()
        try:
            health: Health | EphemeralCredsError = inspector.health(address)
        except EphemeralCredsError as error:
            health = error
        nodes.append(_Node(address, health, (begun + time.time()) / 2))
    return nodes


def _serves(node: _Node) -> bool:
    return isinstance(node.health, Health) and node.health.initialized and not node.health.sealed


def _check_answer(node: _Node, findings: Findings, level: Level) -> None:
    health = node.health
    if isinstance(health, Health):
        findings.add("address", "ok", f"{node.address} answers: Vault {health.version}")
    elif "certificate" in str(health):
        findings.add("tls", level, str(health))
    else:
        remedy = _PATH_OF_ADDRESS if isinstance(health, ProviderUnavailable) else ""
        findings.add("address", level, str(health), remedy)


def _check_secrecy(inspector: Inspector, address: str, findings: Findings) -> None:
    weaknesses = inspector.weaknesses(address)
    for weakness in weaknesses:
        findings.add("tls", "warn", weakness)
    if weaknesses:
        return
    if address.startswith("unix:"):
        text = "a socket of this machine"
    elif address.startswith("http:"):
        text = "plain HTTP, within this machine"
    else:
        text = "the certificate is verified"
    findings.add("tls", "ok", f"{address}: {text}")


def _check_seal(address: str, health: Health, findings: Findings, level: Level) -> None:
    if not health.initialized:
        findings.add("seal", level, f"{address} has never been initialised", "vault operator init")
    elif health.sealed:
        findings.add("seal", level, f"{address} is sealed and can do nothing", _UNSEAL)
    else:
        role = "a standby that passes requests on" if health.standby else "active"
        findings.add("seal", "ok", f"{address}: unsealed, {role}")


def _check_namespace(inspector: Inspector, health: Health, findings: Findings) -> None:
    namespace = inspector.config.namespace
    # Every Vault takes the last two for what it has, as its own command does.
    if not health.enterprise and namespace not in (None, "", "root"):
        findings.add(
            "namespace",
            "warn",
            f"this Vault knows no namespaces and takes no notice of {namespace!r}",
            "unset VAULT_NAMESPACE, or check that this is the right Vault",
        )


def _check_clock(address: str, health: Health, here: float, findings: Findings) -> None:
    if health.time is None:
        return
    # It says whole seconds, cut off.
    ahead = health.time + 0.5 - here
    text = f"the clock of {address} is {ahead_of(ahead)} this machine's"
    if abs(ahead) > CLOCK_TOLERANCE:
        findings.add("clock", "warn", text, "run a time service (NTP) on both")
    else:
        findings.add("clock", "ok", text)
