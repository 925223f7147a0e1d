"""Noticing that a credential file may have changed."""
