"""Integrations with frameworks and drivers: one module each, and an extra of the same name."""
