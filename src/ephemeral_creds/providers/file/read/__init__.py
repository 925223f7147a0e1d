"""Reading credential files and directories."""
