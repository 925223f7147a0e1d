"""SQLAlchemy, with credentials that rotate: ``pip install 'ephemeral-creds[sqlalchemy]'``.

`attach` is for engines with SQLAlchemy's own pools, and ``plugin=ephemeral_creds`` in an engine's
URL does the same, see `plugin`; `create_engine` and `create_async_engine` are for pools of ours.
"""

from __future__ import annotations

from ephemeral_creds.contrib._missing import missing

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - to name the extra where it is missing
except ModuleNotFoundError as error:
    raise missing(error, "sqlalchemy") from None

from ephemeral_creds.contrib.sqlalchemy.attachment import attach, keeper_of
from ephemeral_creds.contrib.sqlalchemy.borrowing import create_async_engine, create_engine

__all__ = ["attach", "create_async_engine", "create_engine", "keeper_of"]
