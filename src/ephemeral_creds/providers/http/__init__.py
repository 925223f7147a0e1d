"""HTTP for providers: bounded in time and size, and nothing is sent twice."""
