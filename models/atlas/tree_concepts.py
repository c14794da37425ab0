"""The concepts that follow from paths alone: systems, modules and files (fastest contract 4.7)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.atlas.atlas_tables import MAX_CONCEPT_ID
from models.projects.snapshots.manifest_text import Entry

SKIPPED = frozenset(["node_modules", "dist", "build", ".git", ".fst", ".fast", ".next", "coverage"])
"""First segments of paths that are left out, beside those that begin with a dot."""
MAX_FILES = 50_000
"""Files that are concepts; the first by path."""
ROOT = "root"
_TESTS = ("test", "tests", "__tests__", "spec", "specs", "testing", "e2e")


@dataclass(frozen=True)
class FoundConcept:
    """A concept as it follows from the tree."""

    id: str
    name: str
    layer: str
    description: str
    type: str | None = None
    sha256: str | None = None
    details: dict[str, Any] | None = None


@dataclass
class TreeConcepts:
    """The concepts of a tree by id, what contains what, and how many files are left out."""

    concepts: dict[str, FoundConcept] = field(default_factory=dict)
    contains: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)
    left_out: int = 0

    def add_file(self, path: str, entry: Entry) -> None:
        """Add the concept of a file, and that its module contains it."""
        id, kind = code_id(path), "test" if is_test(path) else None
        facts = {"path": path, "size": entry.size}
        name = path.rpartition("/")[2]
        self.concepts[id] = FoundConcept(id, name, "code", path, kind, entry.hash, facts)
        self.contains.append((f"module:{module_of(path)}", id))

    def add_places(self, counts: Mapping[str, int]) -> None:
        """Add the concepts of systems and modules with how many files they have, by id, and that systems contain their modules."""
        for id, count in counts.items():
            layer, _, key = id.partition(":")
            files = "1 file" if count == 1 else f"{count:,} files"
            text = f"Top-level area with {files}." if layer == "system" else f"Module with {files}."
            name = "Root" if key == ROOT else key
            self.concepts[id] = FoundConcept(id, name, layer, text, details={"files": count})
            if layer == "module":
                self.contains.append((f"system:{key.partition('/')[0]}", id))


def tree_concepts(entries: Iterable[Entry]) -> TreeConcepts:
    """The concepts of these files. Files are left out without a word if the rules skip them, and counted if they are too many or their paths too long."""
    found = TreeConcepts()
    for entry in sorted(entries, key=lambda each: each.path):
        if not is_mapped(entry):
            continue
        if len(found.files) >= MAX_FILES or is_too_long(entry.path):
            found.left_out += 1
        else:
            found.files[entry.path] = entry
    for path, entry in found.files.items():
        found.add_file(path, entry)
    found.add_places(Counter(id for path in found.files for id in places_of(path)))
    return found


def places_of(path: str) -> tuple[str, str]:
    """The ids of the system and of the module of a file."""
    return f"system:{system_of(path)}", f"module:{module_of(path)}"


def is_mapped(entry: Entry) -> bool:
    """Whether the map has an entry of a tree: it is a file, and the rules do not skip it."""
    first = entry.path.partition("/")[0]
    skipped = first.startswith(".") or first in SKIPPED
    return entry.kind == "file" and entry.hash is not None and not skipped


def is_too_long(path: str) -> bool:
    """Whether a path is longer than an id may be."""
    return len(path.encode()) > MAX_CONCEPT_ID - 10


def code_id(path: str) -> str:
    """The id of a file's concept."""
    return f"code:{path}"


def system_of(path: str) -> str:
    """The key of a path's system: its first segment."""
    first, slash, _ = path.partition("/")
    return first if slash else ROOT


def module_of(path: str) -> str:
    """The key of a path's module: its first two segments, or the first of two, or the root."""
    parts = path.split("/")
    if len(parts) >= 3:
        return "/".join(parts[:2])
    return parts[0] if len(parts) == 2 else ROOT


def is_test(path: str) -> bool:
    """Whether a file is a test, by the names of it and its folders."""
    *folders, name = path.lower().split("/")
    stem = name.partition(".")[0]
    return (
        any(folder in _TESTS for folder in folders)
        or stem.startswith("test_")
        or stem.endswith(("_test", "_spec"))
        or ".test." in name
        or ".spec." in name
        or (name.endswith(".java") and stem.endswith(("test", "tests")))
    )
