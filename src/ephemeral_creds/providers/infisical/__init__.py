"""Credentials from Infisical's dynamic secrets."""

from __future__ import annotations

from ephemeral_creds.providers.infisical.provider import InfisicalProvider

__all__ = ["InfisicalProvider"]
