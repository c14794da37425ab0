"""What Stoa does in a second, measured: `make bench` prints one table of ratios. Nothing here is asserted in tests."""
