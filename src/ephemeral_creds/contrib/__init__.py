"""Integrations with frameworks and drivers: one module each; its library is an extra of its name."""
