"""The whole check, from the URL to the exit status."""

from __future__ import annotations

import os
import sys
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
from ephemeral_creds.check.interruption import PromptInterruption
from ephemeral_creds.check.vault import check_vault, may_come_up
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.check.options import CheckOptions

__all__ = ["check", "check_file", "run_check"]

# With any of these libpq knows where to connect without a connection string.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT")
_LOOK = 0.5  # seconds between two attempts; a pod's start takes longer


def run_check(options: CheckOptions) -> int:
    """Check, print what was found, and return the exit status."""
    with PromptInterruption(_say) as interruption:
        findings = check(options, interruption)
    print(findings.as_json() if options.json else findings.as_text(), flush=True)
    severity = findings.severity
    if interruption.status:
        return interruption.status
    return 0 if severity == 1 and options.allow_warnings else severity


def check(options: CheckOptions, interruption: PromptInterruption) -> Findings:
    """Try a provider step by step, up to the first step that the others depend on and that fails.

    A signal stops it. Roles that were minted by then are revoked, which no signal stops.
    """
    try:
        provider = provider_from_url(options.url)
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
                _take_steps(provider, findings, options, interruption, stack)
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


def _take_steps(
    provider: CredentialProvider,
    findings: Findings,
    options: CheckOptions,
    interruption: PromptInterruption,
    stack: ExitStack,
) -> None:
    if options.wait:
        waited = _wait_for_source(provider, options.wait)
        findings.add("wait", "ok", f"waited {waited:.0f} s of {options.wait:.0f}")
    if isinstance(provider, FileProvider):
        usable = check_file(provider, findings)
    else:
        usable = not isinstance(provider, VaultProvider) or check_vault(provider, findings)
    if not usable:
        return
    if options.dry_run and provider.mints:
        findings.add("mint", "skipped", "a dry run stops before the mint")
        return
    conninfo = options.conninfo
    if conninfo is None and any(name in os.environ for name in _LIBPQ):
        conninfo = ""
    steps = CredentialSteps(provider, findings, conninfo, options.session_role, interruption)
    steps.run(stack)
    findings.complete = steps.connected


def _wait_for_source(provider: CredentialProvider, seconds: float) -> float:
    """Wait until there is something to check, or waiting does not help; return the seconds.

    The sidecar that writes the file, or Vault, may start later than this process.
    """
    begun = time.monotonic()
    while _may_come(provider):
        left = begun + seconds - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(_LOOK, left))
    return time.monotonic() - begun


def _may_come(provider: CredentialProvider) -> bool:
    if isinstance(provider, VaultProvider):
        return may_come_up(provider)
    if isinstance(provider, FileProvider):
        try:
            provider.fetch()
        except (ProviderUnavailable, MalformedResponse):
            return True
        except EphemeralCredsError:
            return False
    return False


def _say(line: str) -> None:
    print(f"ephemeral-creds check: {line}", file=sys.stderr, flush=True)
