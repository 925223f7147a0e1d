"""The steps before there are credentials: the file, or Vault up to the role's definition."""

from __future__ import annotations

import fnmatch
import math
import re
import stat
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.providers.file.policy import mounted_alone

if TYPE_CHECKING:
    from ephemeral_creds import FileProvider
    from ephemeral_creds.cli._check.findings import Findings
    from ephemeral_creds.providers.vault import VaultProvider
    from ephemeral_creds.providers.vault._inspect import Health, Inspector, RoleFacts, TokenFacts

__all__ = ["check_file", "check_vault"]

_LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]")
_SKEW = 60.0  # seconds; what tokens and certificates stand, as a rule

_UNSEAL = "unseal it: vault operator unseal"
_PATH_OF_ADDRESS = "set VAULT_ADDR, or address= in the URL, to where Vault listens"


def check_file(provider: FileProvider, findings: Findings) -> bool:
    """Look at the file: can it be read, by whom, can it be understood, will changes be seen."""
    try:
        provider.fetch()
    except ProviderUnavailable as error:
        findings.add("file", "fail", str(error))
        return False
    except EphemeralCredsError as error:
        findings.add("file", "fail", str(error), "correct the template that renders it")
        return False
    status = provider.path.stat()
    age = max(0.0, time.time() - status.st_mtime)
    text = f"{provider.path} can be read and understood; written {_seconds(age)} ago"
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IROTH:
        findings.add(
            "file",
            "warn",
            f"{text}; its mode {mode:04o} lets everybody read it",
            'set perms = "0640" in the agent\'s template '
            "(vault.hashicorp.com/agent-inject-perms-…)",
        )
    else:
        findings.add("file", "ok", f"{text}; mode {mode:04o}")
    if mounted_alone(provider.path):
        findings.add(
            "file",
            "warn",
            "it is mounted by itself: once somebody replaces it by a rename, as agents do, the old "
            "one is all that can be read here",
            "mount its directory",
        )
    return True


def check_vault(provider: VaultProvider, findings: Findings) -> bool:
    """Look at Vault as far as possible without minting."""
    inspector = provider.inspector()
    if not _check_address(inspector, findings):
        return False
    token = _check_login(inspector, findings)
    if token is None or not _check_policy(inspector, findings, minting=provider.mints):
        return False
    return not provider.mints or _check_role(inspector, token, findings)


def _check_address(inspector: Inspector, findings: Findings) -> bool:
    address = inspector.config.address
    begun = time.time()
    try:
        health = inspector.health()
    except ConfigurationError as error:
        findings.add("tls" if "certificate" in str(error) else "address", "fail", str(error))
        return False
    except EphemeralCredsError as error:
        findings.add("address", "fail", str(error), _PATH_OF_ADDRESS)
        return False
    findings.add("address", "ok", f"{address} answers: Vault {health.version}")
    _check_tls(inspector, findings)
    if not health.initialized:
        findings.add("seal", "fail", "Vault has never been initialised", "vault operator init")
        return False
    if health.sealed:
        findings.add("seal", "fail", "Vault is sealed and can do nothing", _UNSEAL)
        return False
    role = "a standby that passes requests on" if health.standby else "active"
    findings.add("seal", "ok", f"unsealed, {role}")
    _check_namespace(inspector, health, findings)
    _check_clock(health, (begun + time.time()) / 2, findings)
    return True


def _check_tls(inspector: Inspector, findings: Findings) -> None:
    where = urlsplit(inspector.config.address)
    if where.scheme == "https" and inspector.config.verify is False:
        findings.add(
            "tls",
            "warn",
            "the certificate is not verified: whoever is in between reads tokens and passwords",
            "unset VAULT_SKIP_VERIFY and set VAULT_CACERT to the CA of Vault's certificate",
        )
    elif where.scheme == "https":
        findings.add("tls", "ok", "the certificate is verified")
    elif _LOCAL.fullmatch(where.hostname or ""):
        findings.add("tls", "ok", "plain HTTP, within this machine")
    else:
        findings.add(
            "tls",
            "warn",
            "plain HTTP: whoever is in between reads tokens and passwords",
            "have Vault listen with TLS, and let the address begin with https://",
        )


def _check_namespace(inspector: Inspector, health: Health, findings: Findings) -> None:
    namespace = inspector.config.namespace
    if namespace and not health.enterprise:
        findings.add(
            "namespace",
            "warn",
            f"this Vault knows no namespaces and takes no notice of {namespace!r}",
            "unset VAULT_NAMESPACE, or check that this is the right Vault",
        )


def _check_clock(health: Health, here: float, findings: Findings) -> None:
    if health.time is None:
        return
    # It says whole seconds, cut off.
    ahead = health.time + 0.5 - here
    text = f"Vault's clock is {_ahead(ahead)} this machine's"
    if abs(ahead) > _SKEW:
        findings.add("clock", "warn", text, "run a time service (NTP) on both")
    else:
        findings.add("clock", "ok", text)


def _check_login(inspector: Inspector, findings: Findings) -> TokenFacts | None:
    try:
        token = inspector.login()
    except EphemeralCredsError as error:
        findings.add("login", "fail", str(error))
        return None
    kind = "service" if token.service else "batch"
    life = "never expires" if token.ttl == math.inf else f"lives {_seconds(token.ttl)}"
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


def _check_role(inspector: Inspector, token: TokenFacts, findings: Findings) -> bool:
    try:
        role = inspector.definition()
    except AccessDenied:
        findings.add(
            "role", "skipped", "the token may not read the role's definition, which is fine"
        )
        return True
    except ConfigurationError as error:
        findings.add("role", "fail", str(error), f"vault list {inspector.mount}/roles")
        return False
    except EphemeralCredsError as error:
        findings.add("role", "warn", f"the role's definition cannot be read: {error}")
        return True
    defaults = [f"{name} {_seconds(ttl) if ttl else 'of the mount'}" for name, ttl in (
        ("default_ttl", role.default_ttl), ("max_ttl", role.max_ttl),
    )]  # fmt: skip
    findings.add("role", "ok", f"{inspector.role!r}: {', '.join(defaults)}")
    if token.ttl < role.default_ttl * 0.95 and not token.renewable:
        findings.add(
            "role",
            "warn",
            f"the token lives {_seconds(token.ttl)}, the lease {_seconds(role.default_ttl)}: "
            "leases die with the token that they were made under",
            "raise token_ttl and token_max_ttl of the auth role above default_ttl, or give it a "
            "token_period",
        )
    _check_statements(role, findings)
    return _check_allowed(inspector, role, findings)


def _check_statements(role: RoleFacts, findings: Findings) -> None:
    creation = " ".join(role.creation).upper()
    if "NOLOGIN" in creation:
        findings.add(
            "role", "warn", "its creation_statements say NOLOGIN", "write WITH LOGIN instead"
        )
    renewal = " ".join(role.renewal).upper()
    if renewal and "VALID UNTIL" not in renewal:
        findings.add(
            "role",
            "warn",
            "its renew_statements do not move VALID UNTIL: a renewed lease outlives its login",
            "leave renew_statements empty, so that Vault does it by itself",
        )


def _check_allowed(inspector: Inspector, role: RoleFacts, findings: Findings) -> bool:
    try:
        allowed = inspector.allowed_roles(role.connection)
    except AccessDenied:
        return True
    except EphemeralCredsError as error:
        findings.add("role", "fail", str(error))
        return False
    # Vault takes a star at either end of a name.
    if any(fnmatch.fnmatchcase(inspector.role, pattern) for pattern in allowed):
        return True
    findings.add(
        "role",
        "fail",
        f"{inspector.role!r} is not in allowed_roles of its connection {role.connection!r}, which "
        f"has {', '.join(allowed) or 'none'}",
        f"vault write {inspector.mount}/config/{role.connection} "
        f"allowed_roles={','.join([*allowed, inspector.role])}",
    )
    return False


def _seconds(seconds: float) -> str:
    whole = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size and whole % size == 0:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _ahead(seconds: float) -> str:
    if abs(seconds) < 1.5:  # as much as is not known of Vault's
        return "the same as"
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
