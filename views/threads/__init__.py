"""Doors of threads."""
