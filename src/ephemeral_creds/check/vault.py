"""Steps of a check before the mint: the nodes of Vault, the login, policies, the role."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from time import time as unix_time
from typing import TYPE_CHECKING

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.check.findings import CLOCK_TOLERANCE, LONGER_LIFE, ahead_of, in_words
from ephemeral_creds.check.inspector import Health, Inspector, RoleFacts
from ephemeral_creds.providers.vault import VaultKVProvider

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings, Level
    from ephemeral_creds.check.inspector import StaticRoleFacts, TokenFacts
    from ephemeral_creds.providers.vault import VaultProvider

__all__ = ["check_vault", "may_come_up"]


@dataclass(frozen=True, slots=True)
class _Node:
    """One address, its health, and when it was asked, Unix time."""

    address: str
    health: Health | EphemeralCredsError
    asked_at: float

    @property
    def serves(self) -> bool:
        health = self.health
        return isinstance(health, Health) and health.initialized and not health.sealed


def may_come_up(provider: VaultProvider) -> bool:
    """Whether no address has a Vault that serves, and waiting may change that."""
    nodes = _ask(Inspector(provider))
    return not any(node.serves or isinstance(node.health, ConfigurationError) for node in nodes)


def check_vault(provider: VaultProvider, findings: Findings) -> bool:
    """Check Vault as far as possible without a mint; return whether to ask for credentials."""
    inspector = Inspector(provider)
    if not _check_nodes(inspector, findings):
        return False
    token = _check_login(inspector, findings)
    if token is None:
        return False
    if isinstance(provider, VaultKVProvider):
        engine = _check_engine(inspector, provider.engine_version, findings)
        return engine and _check_policy(inspector, findings, minting=False)
    if not _check_policy(inspector, findings, minting=provider.mints):
        return False
    return _check_role(inspector, token, findings)


# --- nodes, without a token ---------------------------------------------------------------------


def _check_nodes(inspector: Inspector, findings: Findings) -> bool:
    """Check each address; return whether one of them can serve."""
    nodes = _ask(inspector)
    enough = any(node.serves for node in nodes)
    level: Level = "warn" if enough else "fail"
    for node in nodes:
        _check_answer(node, findings, level)
        if isinstance(node.health, Health) or len(nodes) > 1:
            _check_secrecy(inspector, node.address, findings)
    for node in nodes:
        if isinstance(node.health, Health):
            _check_seal(node.address, node.health, findings, level)
    for node in nodes:
        if isinstance(node.health, Health) and node.serves:
            _check_namespace(inspector.config.namespace, node.health, findings)
            _check_clock(node.address, node.health, node.asked_at, findings)
    return enough


def _ask(inspector: Inspector) -> list[_Node]:
    nodes = []
    for address in inspector.config.addresses:
        begun = unix_time()
        try:
            health: Health | EphemeralCredsError = inspector.health(address)
        except EphemeralCredsError as error:
            health = error
        nodes.append(_Node(address, health, (begun + unix_time()) / 2))
    return nodes


def _check_answer(node: _Node, findings: Findings, level: Level) -> None:
    health = node.health
    if isinstance(health, Health):
        findings.add("address", "ok", f"{node.address} answers: {health.program} {health.version}")
    # A match on a message of the library: it only decides the name of the step.
    elif "certificate" in str(health):
        findings.add("tls", level, str(health))
    else:
        unavailable = isinstance(health, ProviderUnavailable)
        remedy = "set VAULT_ADDR, or address= in the URL, to where Vault listens"
        findings.add("address", level, str(health), remedy if unavailable else "")


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
        remedy = "unseal it: vault operator unseal"
        findings.add("seal", level, f"{address} is sealed", remedy)
    else:
        role = "a standby that forwards requests" if health.standby else "active"
        findings.add("seal", "ok", f"{address}: unsealed, {role}")


def _check_namespace(namespace: str | None, health: Health, findings: Findings) -> None:
    # Every Vault accepts the last two, as its own command does.
    if not health.enterprise and namespace not in (None, "", "root"):
        findings.add(
            "namespace",
            "warn",
            f"this Vault has no namespaces and ignores {namespace!r}",
            "unset VAULT_NAMESPACE, or check that this is the right Vault",
        )


def _check_clock(address: str, health: Health, here: float, findings: Findings) -> None:
    if health.time is None:
        return
    # It reports whole seconds, rounded down.
    difference = health.time + 0.5 - here
    text = f"the clock of {address} is {ahead_of(difference)} this machine's"
    if abs(difference) > CLOCK_TOLERANCE:
        findings.add("clock", "warn", text, "run a time service (NTP) on both")
    else:
        findings.add("clock", "ok", text)


# --- the token ----------------------------------------------------------------------------------


def _check_login(inspector: Inspector, findings: Findings) -> TokenFacts | None:
    try:
        token = inspector.login()
    except EphemeralCredsError as error:
        findings.add("login", "fail", str(error))
        return None
    kind = "service" if token.service else "batch"
    life = "never expires" if token.ttl == math.inf else f"lives {in_words(token.ttl)}"
    renewable = "renewable" if token.renewable else "not renewable"
    policies = ", ".join(token.policies)
    text = f"a {kind} token that {life}, {renewable}, with the policies {policies}"
    if "root" in token.policies:
        remedy = "a root token may do everything: give the service a token with its own policy"
        findings.add("login", "warn", text, remedy)
    else:
        findings.add("login", "ok", text)
    return token


def _check_engine(inspector: Inspector, wanted: int, findings: Findings) -> bool:
    try:
        found = inspector.engine_version()
    except EphemeralCredsError as error:
        findings.add("engine", "skipped", f"the kind of engine cannot be read: {error}")
        return True
    kind = f"a key-value engine of version {found}" if found else "no key-value engine"
    text = f"{inspector.mount!r} is {kind}"
    if found == wanted or (wanted == 1 and not found):
        findings.add("engine", "ok", text)
        return True
    remedy = f"engine_version={found}" if found else "give the mount of one as mount="
    findings.add("engine", "fail", text, remedy)
    return False


def _check_policy(inspector: Inspector, findings: Findings, *, minting: bool) -> bool:
    wanted: list[tuple[str, str, Level, str]]
    wanted = [(inspector.creds_path, "read", "fail", "credentials cannot be read")]
    if minting:
        never_renewed = "leases cannot be renewed: each lives for default_ttl only"
        never_revoked = (
            "leases cannot be revoked: replaced roles stay until their lease or token ends"
        )
        wanted.append(("sys/leases/renew", "update", "warn", never_renewed))
        wanted.append(("sys/leases/revoke", "update", "warn", never_revoked))
    try:
        granted = inspector.capabilities([path for path, *_ in wanted])
    except EphemeralCredsError as error:
        findings.add("policy", "warn", f"the capabilities of the token cannot be read: {error}")
        return True
    possible = True
    for path, capability, level, consequence in wanted:
        if granted[path] & {capability, "root"}:
            findings.add("policy", "ok", f"may {capability} {path}")
            continue
        remedy = (
            f'add to a policy of the token: path "{path}" {{ capabilities = ["{capability}"] }}'
        )
        if "/data/data/" in path:
            remedy = f"give the path without the 'data/' of Vault's API, or {remedy}"
        findings.add("policy", level, f"may not {capability} {path}: {consequence}", remedy)
        possible = possible and level != "fail"
    return possible


# --- the role's definition, if the token may read it -------------------------------------------


def _check_role(inspector: Inspector, token: TokenFacts, findings: Findings) -> bool:
    try:
        role = inspector.definition()
    except AccessDenied:
        findings.add(
            "role", "skipped", "the token may not read the role's definition, which is fine"
        )
        return True
    except ConfigurationError as error:
        findings.add("role", "fail", str(error), f"vault list {inspector.roles_path}")
        return False
    except EphemeralCredsError as error:
        findings.add("role", "warn", f"the role's definition cannot be read: {error}")
        return True
    if role is None:
        findings.add(
            "role", "skipped", "not a role of a database engine: its definition is not checked"
        )
        return True
    if isinstance(role, RoleFacts):
        _check_times(inspector.role, role, token, findings)
        _check_statements(role, findings)
    else:
        _check_rotation(inspector.role, role, findings)
    return _check_allowed(inspector, role.connection, findings)


def _check_times(name: str, role: RoleFacts, token: TokenFacts, findings: Findings) -> None:
    times = ", ".join(
        f"{setting} {in_words(ttl) if ttl else 'of the mount'}"
        for setting, ttl in (("default_ttl", role.default_ttl), ("max_ttl", role.max_ttl))
    )
    findings.add("role", "ok", f"{name!r}: {times}")
    if token.ttl < role.default_ttl * 0.95 and not token.renewable:
        findings.add(
            "role",
            "warn",
            f"the token lives {in_words(token.ttl)}, the lease {in_words(role.default_ttl)}: "
            "leases end with the token that requested them",
            LONGER_LIFE,
        )


def _check_statements(role: RoleFacts, findings: Findings) -> None:
    if "NOLOGIN" in " ".join(role.creation).upper():
        findings.add(
            "role", "warn", "its creation_statements say NOLOGIN", "use WITH LOGIN instead"
        )
    renewal = " ".join(role.renewal).upper()
    if renewal and "VALID UNTIL" not in renewal:
        findings.add(
            "role",
            "warn",
            "its renew_statements do not move VALID UNTIL: a renewed lease outlasts its login",
            "leave renew_statements empty, so that Vault extends it",
        )


def _check_rotation(name: str, role: StaticRoleFacts, findings: Findings) -> None:
    when = (
        f"by the schedule {role.schedule!r}" if role.schedule else f"each {in_words(role.period)}"
    )
    findings.add("role", "ok", f"{name!r}: the password of {role.username!r} changes {when}")
    if role.rotation and "{{password}}" not in " ".join(role.rotation):
        findings.add(
            "role",
            "warn",
            "its rotation_statements set no {{password}}: what Vault hands out cannot log in "
            "after the next rotation",
            "leave rotation_statements empty, so that Vault sets it",
        )


def _check_allowed(inspector: Inspector, connection: str, findings: Findings) -> bool:
    try:
        allowed = inspector.allowed_roles(connection)
    except AccessDenied:
        return True
    except EphemeralCredsError as error:
        findings.add("role", "fail", str(error))
        return False
    if any(_matches(pattern, inspector.role) for pattern in allowed):
        return True
    findings.add(
        "role",
        "fail",
        f"{inspector.role!r} is not in allowed_roles of its connection {connection!r}, which "
        f"has {', '.join(allowed) or 'none'}",
        f"vault write {inspector.mount}/config/{connection} "
        f"allowed_roles={','.join([*allowed, inspector.role])}",
    )
    return False


def _matches(pattern: str, role: str) -> bool:
    """Whether a role matches one of allowed_roles, if only a star is special."""
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), role, re.DOTALL))
