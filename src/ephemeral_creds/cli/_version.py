"""What ``ephemeral-creds --version`` prints."""

from __future__ import annotations

import platform
from importlib import metadata

from ephemeral_creds.cli._messages import print_result
from ephemeral_creds.cli._statuses import ExitStatus

__all__ = ["print_version"]

# What its behaviour depends on most.
_PACKAGES = ("psycopg", "psycopg-pool", "hvac")


def print_version(*, verbose: bool) -> int:
    """Print the version; with `verbose` also those of what it runs on, for a report of a defect."""
    lines = [f"ephemeral-creds {metadata.version('ephemeral-creds')}"]
    if verbose:
        lines.append(f"Python {platform.python_version()}, {platform.platform()}")
        lines += [f"{package} {metadata.version(package)}" for package in _PACKAGES]
        lines.append(f"libpq {_libpq()}")
    print_result("\n".join(lines))
    return ExitStatus.DONE


def _libpq() -> str:
    try:
        from psycopg import pq
    except ImportError:
        return "cannot be used: install it, or psycopg with its own: pip install 'psycopg[binary]'"
    number = pq.version()
    return f"{number // 10000}.{number % 10000} ({pq.__impl__})"
