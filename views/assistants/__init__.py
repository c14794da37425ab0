"""Doors of assistants."""
