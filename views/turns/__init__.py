"""Entry points of turns."""
