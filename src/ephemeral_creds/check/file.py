"""The step that looks at a credential file, or at a directory of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ephemeral_creds import EphemeralCredsError
from ephemeral_creds.check.units import in_words

if TYPE_CHECKING:
    from ephemeral_creds import FileProvider
    from ephemeral_creds.check.findings import Findings

__all__ = ["check_file"]


def check_file(provider: FileProvider, findings: Findings) -> bool:
    """Look at the file: is it there, can it be read and understood, and who else may read it."""
    try:
        provider.fetch()
    except EphemeralCredsError as error:
        findings.add("file", "fail", str(error), _remedy(str(error)))
        return False
    warnings = provider.warnings
    age = max(0.0, time.time() - provider.path.stat().st_mtime)
    text = f"{provider.path} can be read and understood; written {in_words(age)} ago"
    findings.add("file", "ok", text)
    for warning in warnings:
        findings.add("file", "warn", warning)
    return True


def _remedy(said: str) -> str:
    # All others say themselves what to do.
    if "not a regular file" in said:
        return "give the path of the file that the sidecar writes, or of the directory"
    return ""
