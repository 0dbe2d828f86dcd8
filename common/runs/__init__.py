"""Run folders and what they hold, and what finished runs say together."""
