"""Sync: the main workspace merged into another one, with a preview, decisions and an operation that can be undone."""
