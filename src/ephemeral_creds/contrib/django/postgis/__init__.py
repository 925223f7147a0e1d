"""The backend for PostGIS: ``"ENGINE": "ephemeral_creds.contrib.django.postgis"``."""
