"""What a real Vault and the emulator have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from ephemeral_creds._values import Secret

__all__ = ["VaultLike", "is_below", "no_tls_listener"]


class VaultLike(Protocol):
    """What `VaultServer` and `VaultEmulator` have in common; tests should ask for no more."""

    @property
    def address(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT``; stays the same from the first `start`."""
        ...

    @property
    def tls_address(self) -> str:
        """The base URL of its TLS listener, ``https://127.0.0.1:PORT``; stays the same too.

        Raises:
            ConfigurationError: it has none.
        """
        ...

    @property
    def root_token(self) -> Secret:
        """A token that may do everything."""
        ...

    @property
    def version(self) -> str:
        """Name and version, for people."""
        ...

    def start(self) -> Self:
        """Start, empty, and return once it answers."""
        ...

    def stop(self) -> None:
        """Stop, and forget everything but the address."""
        ...

    def pause(self) -> None:
        """Let every request hang, those on their way included, until `resume`."""
        ...

    def resume(self) -> None:
        """Go on after `pause`."""
        ...

    def seal(self) -> None:
        """Seal: everything but health and unsealing answers 503. State is kept."""
        ...

    def unseal(self) -> None:
        """Go on after `seal`, and return once requests are served again."""
        ...

    def mints(self, path: str = "database/creds/") -> int:
        """Return how many leases were handed out at `path` and below it since the start."""
        ...


def no_tls_listener(kind: str) -> ConfigurationError:
    """Return the error for who asks for the address of a TLS listener that is not there."""
    return ConfigurationError(
        f"this {kind} does not listen for TLS: make it with tls_certificate=(certificate, key)"
    )


def is_below(path: str, folder: str) -> bool:
    """Tell whether `path` is `folder` or below it: ``creds/app2`` is not below ``creds/app``."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
