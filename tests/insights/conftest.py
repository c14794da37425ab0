"""The API of projects as one of the cast, and the proof of projects after tests that move files."""

from tests.projects.conftest import mine, proved

__all__ = ["mine", "proved"]
