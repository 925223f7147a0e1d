"""Waiting for what starts at the same time: the sidecar that writes the file, or Vault."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ephemeral_creds import (
    EphemeralCredsError,
    FileProvider,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.check.nodes import may_come_up
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider

__all__ = ["wait_for_source"]

_LOOK = 0.5  # seconds; a pod's start takes longer


def wait_for_source(provider: CredentialProvider, seconds: float) -> float:
    """Wait until there is something to check, or it is clear that waiting does not help.

    Args:
        provider: where credentials come from.
        seconds: how long to wait at most.

    Returns:
        The seconds that it took.
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
        return may_come_up(provider.inspector())
    if not isinstance(provider, FileProvider):
        return False
    try:
        provider.fetch()
    except (ProviderUnavailable, MalformedResponse):
        return True
    except EphemeralCredsError:
        return False
    return False
