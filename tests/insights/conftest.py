"""The proof of projects after tests that move files."""

from tests.projects.conftest import proved

__all__ = ["proved"]
