"""A Vault or OpenBao behind a fault proxy, whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.testing._fault_proxy import FaultProxy

if TYPE_CHECKING:
    from ephemeral_creds._values import Secret

__all__ = ["ExternalVault", "VaultAccess"]


class VaultAccess:
    """What a test can do with a Vault, whoever runs it.

    Args:
        root_token: a token that may do everything.

    Attributes:
        faults: the script of what goes wrong.
        requests: every request to `address` so far, in the order in which they arrived.
    """

    def __init__(self, root_token: Secret) -> None:
        self._root_token = root_token
        self._proxy = FaultProxy()
        self.faults, self.requests = self._proxy.faults, self._proxy.requests

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @property
    def address(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT``; stays the same from the first `start`."""
        return f"http://127.0.0.1:{self._proxy.port}"

    @property
    def server_address(self) -> str:
        """The base URL of the server itself: no faults, no counts."""
        host, port = self._proxy.target
        return f"http://{host}:{port}"

    @property
    def root_token(self) -> Secret:
        """A token that may do everything."""
        return self._root_token

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it since the start.

        An answer that a fault swallowed counts: the role exists.
        """
        folder = f"{path.rstrip('/')}/"  # creds/app2 is not below creds/app
        return sum(r.leased and f"{r.path}/".startswith(folder) for r in self.requests)

    def count(self, method: str, path: str) -> int:
        """Return how many requests were made to `address` with `method`, to exactly `path`."""
        return sum((r.method, r.path) == (method, path) for r in self.requests)


class ExternalVault(VaultAccess):
    """A Vault or OpenBao that somebody else runs, with a fault proxy of our own in front.

    Args:
        address: ``http://HOST:PORT``.
        root_token: a token that may do everything.

    Raises:
        ConfigurationError: the address is not of that form.
    """

    def __init__(self, address: str, root_token: Secret) -> None:
        super().__init__(root_token)
        where = urlsplit(address)
        if where.scheme != "http" or where.hostname is None:
            raise ConfigurationError(
                f"{address!r} is not the address of a Vault for tests: give http://HOST:PORT"
            )
        self._proxy.target = (where.hostname, where.port or 8200)

    def __enter__(self) -> Self:
        self._proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.stop()
