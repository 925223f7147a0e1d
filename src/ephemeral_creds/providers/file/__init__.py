"""Credentials from a file that a sidecar writes."""

from __future__ import annotations

from ephemeral_creds.providers.file.parse import parse_env
from ephemeral_creds.providers.file.provider import FileProvider

__all__ = ["FileProvider", "parse_env"]
