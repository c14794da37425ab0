"""Snapshots of projects, the bytes of their files, and the history that they make."""
