"""Entry points of threads."""
