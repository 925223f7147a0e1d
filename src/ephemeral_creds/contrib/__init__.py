"""Integrations with frameworks and drivers: a module each, and an extra if it needs a library."""
