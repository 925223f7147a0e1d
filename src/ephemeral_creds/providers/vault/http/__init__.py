"""How requests reach Vault, and answers come back."""
