"""One training, from its recipe to its last checkpoint."""
