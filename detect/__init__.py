"""Backbone file to a detector to a scored report."""
