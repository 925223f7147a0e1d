"""A service that notes jobs."""
