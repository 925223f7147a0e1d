"""Tokens that databases take for a password, and check at the login only."""

from __future__ import annotations

from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider
from ephemeral_creds.providers.tokens.provider import TokenProvider
from ephemeral_creds.providers.tokens.rds import RDSIAMProvider

__all__ = ["DatabaseTokenProvider", "RDSIAMProvider", "TokenProvider"]
