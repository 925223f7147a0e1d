"""Constant credentials, for development and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["FixedProvider"]


class FixedProvider(CredentialProvider):
    """Always the same user name and password, with no lease.

    For a developer's machine, where the service's code should not differ from production's.

    Args:
        username: the PostgreSQL role to log in as.
        password: its password.
    """

    mints: ClassVar[bool] = False

    def __init__(self, username: str, password: str | Secret) -> None:
        secret = password if isinstance(password, Secret) else Secret(password)
        self._credentials = Credentials(username, secret)

    @property
    def description(self) -> str:
        """The user name that it hands out."""
        return f"fixed credentials of {self._credentials.username!r}"

    def fetch(self) -> Grant:
        """Return the credentials; they never expire."""
        return Grant(self._credentials, Lease(requested_at=0.0))
