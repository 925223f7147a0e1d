"""Tokens that databases take for a password, and check at the login only."""
