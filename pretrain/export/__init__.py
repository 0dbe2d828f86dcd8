"""Backbone files for others: layouts, cards, settings; and what a file is."""
