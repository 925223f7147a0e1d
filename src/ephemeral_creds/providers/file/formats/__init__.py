"""The formats of credential files: text to credentials; pure."""
