"""asyncpg's pool, with credentials that rotate: ``pip install 'ephemeral-creds[asyncpg]'``."""

from __future__ import annotations

from ephemeral_creds.contrib._missing import missing

try:
    import asyncpg as _asyncpg  # noqa: F401 - to name the extra where it is missing
except ModuleNotFoundError as error:
    raise missing(error, "asyncpg") from None

from ephemeral_creds.contrib.asyncpg.pool import RotatingPool, create_pool

__all__ = ["RotatingPool", "create_pool"]
