"""From image files, here or on a server, to batches: reading, checking, order."""
