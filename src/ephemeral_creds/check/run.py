"""The whole check, from the URL to the last step."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ephemeral_creds import (
    ConfigurationError,
    EphemeralCredsError,
    FileProvider,
    MalformedResponse,
    ProviderUnavailable,
    provider_from_url,
)
from ephemeral_creds.check.credentials import CredentialSteps
from ephemeral_creds.check.findings import Findings, in_words
from ephemeral_creds.check.vault import check_vault, may_come_up
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.check.interruption import PromptInterruption

__all__ = ["check", "check_file", "may_come"]

# With any of these libpq knows where to connect without a connection string.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT")
_LOOK = 0.5  # seconds between two attempts; a pod's start takes longer


def check(
    url: str | None,
    *,
    conninfo: str | None,
    session_role: str | None,
    wait: float,
    dry_run: bool,
    interruption: PromptInterruption,
) -> Findings:
    """Try a provider step by step, up to the first step that the others depend on and that fails.

    A signal stops it. Roles that were minted by then are revoked, which no signal stops.

    Args:
        url: the provider's URL; ``None`` takes it from ``EPHEMERAL_CREDS_URL``.
        conninfo: where PostgreSQL is; ``None`` takes it from libpq's own variables.
        session_role: the role that sessions act as, if another one than they log in as.
        wait: seconds to wait for a source that is not there yet.
        dry_run: stop before a role is minted.
        interruption: defers signals while a role is minted or revoked.
    """
    try:
        provider = provider_from_url(url)
    except ConfigurationError as error:
        findings = Findings("the provider's URL")
        findings.add("url", "fail", str(error), "see the reference of settings for valid URLs")
        return findings
    findings = Findings(provider.description, complete=False)
    findings.add("url", "ok", f"means {provider.description}")
    with ExitStack() as stack:
        stack.callback(provider.close)
        try:
            with interruption.breakable():
                if not _is_usable(provider, findings, wait):
                    return findings
                if dry_run and provider.mints:
                    findings.add("mint", "skipped", "a dry run stops before the mint")
                    return findings
                if conninfo is None and any(name in os.environ for name in _LIBPQ):
                    conninfo = ""
                steps = CredentialSteps(provider, findings, conninfo, session_role, interruption)
                steps.run(stack)
                findings.complete = steps.connected
        except KeyboardInterrupt:
            interruption.noticed()
            findings.add("stopped", "fail", "a signal ended the check before its last step")
    return findings


def check_file(provider: FileProvider, findings: Findings) -> bool:
    """Look at the file: is it there, can it be read and understood, and who else may read it."""
    try:
        provider.fetch()
    except EphemeralCredsError as error:
        # A match on a message of the library: all others say themselves what to do.
        irregular = "not a regular file" in str(error)
        remedy = "give the path of the file that the sidecar writes, or of the directory"
        findings.add("file", "fail", str(error), remedy if irregular else "")
        return False
    warnings = provider.warnings
    age = max(0.0, time.time() - provider.path.stat().st_mtime)
    text = f"{provider.path} can be read and understood; written {in_words(age)} ago"
    findings.add("file", "ok", text)
    for warning in warnings:
        findings.add("file", "warn", warning)
    return True


def _is_usable(provider: CredentialProvider, findings: Findings, wait: float) -> bool:
    """Take the steps before credentials are fetched, and say whether they can be."""
    if wait:
        waited = _wait_for_source(provider, wait)
        findings.add("wait", "ok", f"waited {waited:.0f} s of {wait:.0f}")
    if isinstance(provider, FileProvider):
        return check_file(provider, findings)
    return not isinstance(provider, VaultProvider) or check_vault(provider, findings)


def _wait_for_source(provider: CredentialProvider, seconds: float) -> float:
    """Wait until there is something to check, or waiting does not help; return the seconds.

    The sidecar that writes the file, or Vault, may start later than this process.
    """
    begun = time.monotonic()
    while may_come(provider):
        left = begun + seconds - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(_LOOK, left))
    return time.monotonic() - begun


def may_come(provider: CredentialProvider) -> bool:
    """Whether the source is not there yet, and waiting for it may help. Mints no role."""
    if isinstance(provider, VaultProvider):
        return may_come_up(provider)
    if provider.mints:
        # There is nothing to ask it but for a role.
        return False
    try:
        provider.fetch()
    except (ProviderUnavailable, MalformedResponse):
        return True
    except EphemeralCredsError:
        return False
    return False
