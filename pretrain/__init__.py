"""Images to a trained classifier to a backbone file."""
