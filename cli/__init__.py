"""The `clipfeat` command."""
