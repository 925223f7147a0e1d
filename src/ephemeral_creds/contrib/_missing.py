"""The error for a library that is not installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """Return the error to raise in place of `error`: it names the extra that brings the library."""
    return ModuleNotFoundError(
        f"ephemeral_creds.contrib.{extra} needs {error.name}: "
        f"pip install 'ephemeral-creds[{extra}]'",
        name=error.name,
    )
