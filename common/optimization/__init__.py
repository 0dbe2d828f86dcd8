"""What `--optimization.*` does."""
