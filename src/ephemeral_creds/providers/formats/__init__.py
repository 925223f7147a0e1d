"""The formats of credential files and secrets: text to credentials; pure."""
