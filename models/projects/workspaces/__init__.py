"""Workspaces of projects, and the operations that move their heads."""
