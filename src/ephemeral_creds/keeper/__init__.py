"""One thread that keeps a provider's credentials fresh."""
