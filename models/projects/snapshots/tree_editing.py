"""Changing some paths of a tree: only the directories above them are read and written."""

from collections.abc import Mapping

import orjson

from models.core.cooperative import TimeSlices
from models.projects.snapshots.directory_tree import Directory, Load, hash_directory, place
from models.projects.snapshots.manifest_text import Entry


def edited(root: str, changes: Mapping[str, Entry | None], load: Load) -> tuple[str, dict[str, bytes]]:
    """The root of a tree in which these paths have these entries, None for nothing, and the listings of the directories above them by
    their hashes. A directory without entries vanishes, unless it is named. Raises ManifestInvalid if a file would be a directory too."""
    slices = TimeSlices()
    top = _opened(root, changes, load, slices)
    for path in changes:
        _remove(top, path)
    _prune(top)
    for entry in changes.values():
        if entry is not None:
            place(top, entry)
            slices.pause()
    listings: dict[str, bytes] = {}
    return hash_directory(top, listings, slices), listings


def _opened(root: str, changes: Mapping[str, object], load: Load, slices: TimeSlices) -> Directory:
    """The root, with the directories at and above these paths opened, and all others as rows."""
    top = Directory()
    level: list[tuple[Directory, str, str, list[str]]] = [(top, "", root, list(changes))]
    while level:
        listings = load({hash for _, _, hash, _ in level})
        below: list[tuple[Directory, str, str, list[str]]] = []
        for directory, prefix, hash, paths in level:
            inside: dict[str, list[str]] = {}
            for path in paths:
                inside.setdefault(path[len(prefix) :].partition("/")[0], []).append(path)
            for row in orjson.loads(listings[hash]):
                name, kind, mode, *rest = row
                if kind != "d" or name not in inside:
                    directory.children[name] = row
                    continue
                child = directory.children[name] = Directory()
                child.named, child.mode = mode is not None, mode
                at = f"{prefix}{name}"
                below.append((child, f"{at}/", rest[0], [path for path in inside[name] if path != at]))
            slices.pause()
        level = below
    return top


def _remove(top: Directory, path: str) -> None:
    *above, name = path.split("/")
    here = top
    for segment in above:
        below = here.children.get(segment)
        if not isinstance(below, Directory):
            return
        here = below
    there = here.children.get(name)
    if isinstance(there, Directory):
        there.named, there.mode = False, None
    else:
        here.children.pop(name, None)


def _prune(directory: Directory) -> None:
    """Remove the opened directories below that have no entries and are not named."""
    # as deep as MAX_DEPTH of a manifest
    for name, child in list(directory.children.items()):
        if isinstance(child, Directory):
            _prune(child)
            if not child.children and not child.named:
                del directory.children[name]
