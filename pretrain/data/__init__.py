"""From data sets of images with labels to batches."""
