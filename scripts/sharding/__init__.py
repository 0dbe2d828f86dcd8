"""The parts of `scripts/make_shards.py`."""
