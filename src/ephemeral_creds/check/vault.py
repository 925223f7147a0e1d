"""The steps before there are credentials: Vault up to the role's definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ephemeral_creds import EphemeralCredsError
from ephemeral_creds.check.nodes import check_nodes
from ephemeral_creds.check.role import check_role
from ephemeral_creds.check.units import in_words

if TYPE_CHECKING:
    from ephemeral_creds.check.findings import Findings
    from ephemeral_creds.providers.vault import VaultProvider
    from ephemeral_creds.providers.vault.facts import TokenFacts
    from ephemeral_creds.providers.vault.inspect import Inspector

__all__ = ["check_vault"]


def check_vault(provider: VaultProvider, findings: Findings) -> bool:
    """Look at Vault as far as possible without minting."""
    inspector = provider.inspector()
    if not check_nodes(inspector, findings):
        return False
    token = _check_login(inspector, findings)
    if token is None or not _check_policy(inspector, findings, minting=provider.mints):
        return False
    return check_role(inspector, token, findings)


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
        findings.add(
            "login", "warn", text, "a root token may do everything: give the service one of its own"
        )
    else:
        findings.add("login", "ok", text)
    return token


def _check_policy(inspector: Inspector, findings: Findings, *, minting: bool) -> bool:
    wanted = {inspector.creds_path: ("read", "fail", "credentials cannot be read")}
    if minting:
        wanted["sys/leases/renew"] = (
            "update", "warn", "leases cannot be renewed: each lives for default_ttl only",
        )  # fmt: skip
        wanted["sys/leases/revoke"] = (
            "update", "warn",
            "leases cannot be given back: replaced roles stay until their lease or token ends",
        )  # fmt: skip
    try:
        granted = inspector.capabilities(list(wanted))
    except EphemeralCredsError as error:
        findings.add("policy", "warn", f"what the token may do cannot be told: {error}")
        return True
    possible = True
    for path, (capability, level, consequence) in wanted.items():
        if granted[path] & {capability, "root"}:
            findings.add("policy", "ok", f"may {capability} {path}")
            continue
        remedy = (
            f'add to a policy of the token: path "{path}" {{ capabilities = ["{capability}"] }}'
        )
        if level == "fail":
            findings.add("policy", "fail", f"may not {capability} {path}: {consequence}", remedy)
            possible = False
        else:
            findings.add("policy", "warn", f"may not {capability} {path}: {consequence}", remedy)
    return possible
