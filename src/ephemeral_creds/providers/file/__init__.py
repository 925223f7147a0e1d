"""Credentials from a file that a sidecar writes."""

from __future__ import annotations

from ephemeral_creds.providers.file.policy import FilePolicy
from ephemeral_creds.providers.file.provider import FileProvider

__all__ = ["FilePolicy", "FileProvider"]
