"""One check from the URL to the verdict."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ephemeral_creds import ConfigurationError, FileProvider, provider_from_url
from ephemeral_creds.check.credentials import CredentialSteps
from ephemeral_creds.check.file import check_file
from ephemeral_creds.check.findings import Findings
from ephemeral_creds.check.interruption import PromptInterruption
from ephemeral_creds.check.vault import check_vault
from ephemeral_creds.check.waiting import wait_for_source
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.check.options import CheckOptions

__all__ = ["check", "run_check"]

# Any of these says that libpq knows where to connect to without being told.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT")


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
    """Try a provider step by step; what one step needs and does not have ends it there.

    A signal breaks it off. What was minted by then is given back, and nothing breaks that off.
    """
    try:
        provider = provider_from_url(options.url)
    except ConfigurationError as error:
        findings = Findings("the provider's URL")
        findings.add("url", "fail", str(error), "see the reference of settings for what it may say")
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


def _take_steps(
    provider: CredentialProvider,
    findings: Findings,
    options: CheckOptions,
    interruption: PromptInterruption,
    stack: ExitStack,
) -> None:
    if options.wait:
        waited = wait_for_source(provider, options.wait)
        findings.add("wait", "ok", f"waited {waited:.0f} s of {options.wait:.0f}")
    if not _check_source(provider, findings):
        return
    if options.dry_run and provider.mints:
        findings.add("mint", "skipped", "a dry run mints nothing, and ends here")
        return
    steps = CredentialSteps(
        provider, findings, _conninfo(options), options.session_role, interruption
    )
    steps.run(stack)
    findings.complete = steps.connected


def _say(line: str) -> None:
    print(f"ephemeral-creds check: {line}", file=sys.stderr, flush=True)


def _check_source(provider: CredentialProvider, findings: Findings) -> bool:
    """Look at where credentials come from; say whether it makes sense to ask for some."""
    if isinstance(provider, FileProvider):
        return check_file(provider, findings)
    if isinstance(provider, VaultProvider):
        return check_vault(provider, findings)
    return True


def _conninfo(options: CheckOptions) -> str | None:
    if options.conninfo is None and any(name in os.environ for name in _LIBPQ):
        return ""
    return options.conninfo
