"""What ``ephemeral-creds check`` does."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ephemeral_creds.check.findings import WIDTH
from ephemeral_creds.check.interruption import PromptInterruption
from ephemeral_creds.check.run import check
from ephemeral_creds.cli._messages import print_note, print_result
from ephemeral_creds.cli._statuses import ExitStatus

if TYPE_CHECKING:
    from ephemeral_creds.cli._check_options import CheckOptions

__all__ = ["run_check"]

_STATUSES = {"ok": ExitStatus.DONE, "warn": ExitStatus.WARNED, "fail": ExitStatus.FAILED}


def run_check(options: CheckOptions) -> int:
    """Check, print what was found, and return the exit status."""
    with PromptInterruption(lambda line: print_note("check", line)) as interruption:
        findings = check(
            options.url,
            conninfo=options.conninfo,
            session_role=options.session_role,
            wait=options.wait,
            dry_run=options.dry_run,
            interruption=interruption,
        )
    # That of the terminal, if there is one and it is narrower.
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    print_result(findings.as_json() if options.json else findings.as_text(width))
    if interruption.status:
        return interruption.status
    if findings.status == "warn" and options.allow_warnings:
        return ExitStatus.DONE
    return _STATUSES[findings.status]
