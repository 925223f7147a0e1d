"""The database secrets engine: roles for a time, and roles that stay and change their password."""
