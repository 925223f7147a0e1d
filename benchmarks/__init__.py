"""How fast the pools are, as ratios within one run: `python -m benchmarks --help`."""
