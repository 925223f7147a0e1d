"""psycopg without a pool: single connections and LISTEN, with credentials that rotate."""

from __future__ import annotations

from ephemeral_creds.contrib.psycopg._async.connection import AsyncLeasedConnection, aconnect
from ephemeral_creds.contrib.psycopg._async.listener import AsyncListener, alisten
from ephemeral_creds.contrib.psycopg._sync.connection import LeasedConnection, connect
from ephemeral_creds.contrib.psycopg._sync.listener import Listener, listen
from ephemeral_creds.contrib.psycopg.shared import is_stale

__all__ = [
    "AsyncLeasedConnection",
    "AsyncListener",
    "LeasedConnection",
    "Listener",
    "aconnect",
    "alisten",
    "connect",
    "is_stale",
    "listen",
]
