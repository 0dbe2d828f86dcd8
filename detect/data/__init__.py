"""From VOC devkits to batches."""
