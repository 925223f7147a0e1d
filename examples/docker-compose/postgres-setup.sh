#!/bin/sh
# Run by the image of PostgreSQL, once, with an empty data directory.
set -eu

psql -v ON_ERROR_STOP=1 -v admin_password="$POSTGRES_PASSWORD" -U postgres -f /setup/schema.sql "$POSTGRES_DB"
