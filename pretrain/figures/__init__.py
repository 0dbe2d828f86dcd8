"""Figures 2, 4 and 5 of the paper, drawn from finished runs."""
