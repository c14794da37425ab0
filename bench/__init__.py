"""Benchmarks: `make bench` prints one table of ratios. Tests assert none of them."""
