"""Backbone files, and the layouts in which others keep theirs."""
