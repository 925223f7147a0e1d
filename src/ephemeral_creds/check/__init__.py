"""The command ``ephemeral-creds check``: one provider, tried step by step."""
