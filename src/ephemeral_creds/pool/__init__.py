"""Pools of psycopg connections that move to new credentials."""
