"""Processes and what happens to them: ranks, signals, memory, determinism."""
