"""How to log in to Vault."""
