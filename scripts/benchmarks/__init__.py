"""The benchmarks of `scripts/bench.py`, a module each; `run(settings)` returns comparisons."""
