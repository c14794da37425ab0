"""Paths of a tree: those that tools may name, and folders that no tree should hold."""

from models.core.errors import Invalid
from models.projects.snapshots.manifest_text import path_problem

IGNORED = frozenset(
    {".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".nox", ".mypy_cache"}
    | {".pytest_cache", ".ruff_cache", ".gradle", ".next", ".turbo"}
)
"""Names of folders of tools, which are made again when they are missing. What such a folder holds changes only if it was in the tree."""
CACHE_MARK = "CACHEDIR.TAG"
"""A file in folders that only a tool needs."""


def file_path(path: str) -> str:
    """The path of a file. Raises Invalid for one that no tree can hold, or that leaves it."""
    plain = path.removeprefix("./")
    problem = path_problem(plain) or ("" if _encodes(plain) else "the path is not Unicode text")
    if problem:
        raise Invalid(f"This is no path of a file here: {problem}.", code="path_invalid")
    return plain


def folder_path(path: str) -> str:
    """The path of a folder, empty for the root. Raises Invalid as `file_path`."""
    plain = path.removeprefix("./").rstrip("/")
    return "" if plain in ("", ".") else file_path(plain)


def ignored(path: str) -> bool:
    """Whether a folder above this path is one of a tool."""
    return not IGNORED.isdisjoint(path.split("/")[:-1])


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
