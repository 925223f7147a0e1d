"""SQLAlchemy: engines on our pools, and engines on its own that log in with a keeper's credentials.

``plugin=ephemeral_creds`` in an engine's URL does what `attach` does, see `plugin`.
"""

from ephemeral_creds.contrib._missing import missing

try:
    from ephemeral_creds.contrib.sqlalchemy.attachment import attach, keeper_of
except ModuleNotFoundError as error:
    if error.name != "sqlalchemy":
        raise
    raise missing(error, "sqlalchemy") from None

__all__ = ["attach", "keeper_of"]
