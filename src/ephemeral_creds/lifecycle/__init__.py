"""When to fetch, renew, replace and revoke: a pure state machine."""
