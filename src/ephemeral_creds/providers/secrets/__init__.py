"""Secret managers of clouds, which keep user name and password, and versions of both."""

from __future__ import annotations

from ephemeral_creds.providers.secrets.aws import SecretsManagerProvider

__all__ = ["SecretsManagerProvider"]
