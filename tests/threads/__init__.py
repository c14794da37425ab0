"""Threads: their trees, API, search, files and links."""
