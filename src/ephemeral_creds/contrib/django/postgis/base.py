"""The backend for PostGIS: what ``ENGINE`` names."""

from __future__ import annotations

from ephemeral_creds.contrib._missing import missing

try:
    from django.contrib.gis.db.backends.postgis import base
except ModuleNotFoundError as error:
    raise missing(error, "django") from None

from ephemeral_creds.contrib.django._wrapper import RotatingWrapper

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(RotatingWrapper, base.DatabaseWrapper):  # type: ignore[misc]
    """Django's backend for PostGIS, with credentials that rotate."""
