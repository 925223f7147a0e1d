"""The command ``ephemeral-creds check``: try a provider step by step."""
