"""The `reproduce` command."""
