"""Fetching, checking and unpacking published archives."""
