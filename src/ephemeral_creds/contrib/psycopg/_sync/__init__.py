"""Connections for threads."""
