"""The concepts that follow from paths alone: systems, modules and files (fastest contract 4.7)."""

from collections import Counter
from collections.abc import Iterable
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


def tree_concepts(entries: Iterable[Entry]) -> TreeConcepts:
    """The concepts of these files. Files are left out without a word if the rules skip them, and counted if they are too many or their paths too long."""
    found = TreeConcepts()
    for entry in sorted(entries, key=lambda each: each.path):
        if entry.kind != "file" or entry.hash is None or _is_skipped(entry.path):
            continue
        if len(found.files) >= MAX_FILES or len(entry.path.encode()) > MAX_CONCEPT_ID - 10:
            found.left_out += 1
        else:
            found.files[entry.path] = entry
    systems = Counter(system_of(path) for path in found.files)
    modules = Counter(module_of(path) for path in found.files)
    inside: dict[str, str] = {}
    for path, entry in found.files.items():
        module = module_of(path)
        inside.setdefault(f"module:{module}", f"system:{system_of(path)}")
        found.contains.append((f"module:{module}", code_id(path)))
        name = path.rpartition("/")[2]
        kind = "test" if is_test(path) else None
        found.concepts[code_id(path)] = FoundConcept(
            code_id(path), name, "code", path, kind, entry.hash, {"path": path, "size": entry.size}
        )
    for key, count in systems.items():
        text = f"Top-level area with {_files(count)}."
        shown = "Root" if key == ROOT else key
        found.concepts[f"system:{key}"] = FoundConcept(
            f"system:{key}", shown, "system", text, details={"files": count}
        )
    for key, count in modules.items():
        shown = "Root" if key == ROOT else key
        found.concepts[f"module:{key}"] = FoundConcept(
            f"module:{key}", shown, "module", f"Module with {_files(count)}.", details={"files": count}
        )
    found.contains += [(system, module) for module, system in inside.items()]
    return found


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


def _is_skipped(path: str) -> bool:
    first = path.partition("/")[0]
    return first.startswith(".") or first in SKIPPED


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
