"""Trees: one listing for each directory, known by its hash, so that snapshots share what did not change."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from models.core.cooperative import TimeSlices
from models.projects.snapshots.manifest_text import Entry, ManifestInvalid

Row = list[Any]
"""A row of a listing: a name, then `"f"`, mode, hash and size of a file; `"l"`, mode and target of a link; `"d"`, mode and listing of a
directory, whose mode is None unless the manifest names the directory itself. Sorted by the bytes of names."""
Listings = Mapping[str, bytes]
Load = Callable[[Collection[str]], Listings]
"""Returns the listings with these hashes. Raises for one that is missing."""
Changes = dict[str, tuple[Entry | None, Entry | None]]
"""The entries before and after by path, None where there is none."""


class Directory:
    """A directory while its tree is built: by name the directories in it, and rows of all else, also of directories that stay."""

    __slots__ = ("children", "mode", "named")

    def __init__(self) -> None:
        self.children: dict[str, Directory | Row] = {}
        self.mode: int | None = None
        self.named = False


class _Pair(NamedTuple):
    """Two directories at one path of the pair of trees number `at`."""

    at: int
    prefix: str
    before: str | None
    after: str | None


def build(entries: Iterable[Entry]) -> tuple[str, dict[str, bytes]]:
    """The root's hash, and the listings of all directories by theirs. Raises ManifestInvalid for a path that is named twice, or that
    lies below a file or link."""
    root, slices = Directory(), TimeSlices()
    for entry in entries:
        place(root, entry)
        slices.pause()
    listings: dict[str, bytes] = {}
    return hash_directory(root, listings, slices), listings


def walk(root: str, load: Load) -> list[Entry]:
    """The entries of a tree, not sorted. Loads one level of directories at a time."""
    entries: list[Entry] = []
    level: list[tuple[str, str]] = [("", root)]
    slices = TimeSlices()
    while level:
        listings = load({hash for _, hash in level})
        below: list[tuple[str, str]] = []
        for prefix, hash in level:
            for name, kind, mode, *rest in orjson.loads(listings[hash]):
                path = f"{prefix}{name}"
                if kind == "d":
                    if mode is not None:
                        entries.append(Entry(path, "dir", mode))
                    below.append((f"{path}/", rest[0]))
                elif kind == "f":
                    entries.append(Entry(path, "file", mode, rest[0], rest[1]))
                else:
                    entries.append(Entry(path, "symlink", mode, target=rest[0]))
            slices.pause()
        level = below
    return entries


def changed(before: str | None, after: str | None, load: Load) -> Changes:
    """What differs between two trees, by path: the entry before and after, None where there is none. Reads only directories that differ."""
    return changed_each([(before, after)], load)[0]


def changed_each(pairs: Sequence[tuple[str | None, str | None]], load: Load) -> list[Changes]:
    """What differs in each of these pairs of trees, as `changed`; one load a level serves all pairs."""
    found: list[Changes] = [{} for _ in pairs]
    level = [_Pair(at, "", *pair) for at, pair in enumerate(pairs) if pair[0] != pair[1]]
    slices = TimeSlices()
    while level:
        listings = load({hash for pair in level for hash in (pair.before, pair.after) if hash is not None})
        below: list[_Pair] = []
        for pair in level:
            old, new = (
                {row[0]: row for row in orjson.loads(listings[hash])} if hash else {}
                for hash in (pair.before, pair.after)
            )
            for name in old.keys() | new.keys():
                if old.get(name) != new.get(name):
                    _compare(pair, name, old.get(name), new.get(name), found, below)
            slices.pause()
        level = below
    return found


def children(listing: bytes) -> tuple[set[str], set[str]]:
    """The hashes of the directories and of the files that a listing names."""
    rows = orjson.loads(listing)
    return {row[3] for row in rows if row[1] == "d"}, {row[3] for row in rows if row[1] == "f"}


def entry_of_row(path: str, row: Row | None) -> Entry | None:
    """The entry of a row; None for a directory that the manifest does not name."""
    match row:
        case [_, "f", mode, hash, size]:
            return Entry(path, "file", mode, hash, size)
        case [_, "l", mode, target]:
            return Entry(path, "symlink", mode, target=target)
        case [_, "d", int() as mode, _]:
            return Entry(path, "dir", mode)
    return None


def place(root: Directory, entry: Entry) -> None:
    """Put an entry into a tree that is built. Raises ManifestInvalid if it is named twice, or lies below a file or link."""
    *above, name = entry.path.split("/")
    here = root
    for segment in above:
        below = here.children.setdefault(segment, Directory())
        if not isinstance(below, Directory):
            raise ManifestInvalid(f"'{entry.path[:100]}' lies below a file or link.")
        here = below
    there = here.children.get(name)
    if entry.kind == "dir":
        if there is None:
            there = here.children[name] = Directory()
        if not isinstance(there, Directory) or there.named:
            raise _twice(entry)
        there.named, there.mode = True, entry.mode
    elif there is not None:
        raise _twice(entry)
    elif entry.kind == "file":
        here.children[name] = [name, "f", entry.mode, entry.hash, entry.size]
    else:
        here.children[name] = [name, "l", entry.mode, entry.target]


def _twice(entry: Entry) -> ManifestInvalid:
    return ManifestInvalid(f"'{entry.path[:100]}' is named twice.")


def hash_directory(directory: Directory, listings: dict[str, bytes], slices: TimeSlices) -> str:
    """The hash of a directory; adds its listing, and those of the directories below, to `listings`."""
    # as deep as MAX_DEPTH of a manifest
    rows: list[Row] = [
        [name, "d", child.mode, hash_directory(child, listings, slices)]
        if isinstance(child, Directory)
        else child
        for name, child in directory.children.items()
    ]
    rows.sort(key=_name)
    slices.pause()
    listing = orjson.dumps(rows)
    hash = hashlib.sha256(listing).hexdigest()
    listings[hash] = listing
    return hash


def _name(row: Row) -> str:
    name: str = row[0]
    return name


def _compare(
    pair: _Pair,
    name: str,
    old: Row | None,
    new: Row | None,
    found: Sequence[Changes],
    below: list[_Pair],
) -> None:
    path = f"{pair.prefix}{name}"
    folders = [row[3] if row and row[1] == "d" else None for row in (old, new)]
    if folders[0] != folders[1]:
        below.append(_Pair(pair.at, f"{path}/", *folders))
    entries = entry_of_row(path, old), entry_of_row(path, new)
    if entries[0] != entries[1]:
        found[pair.at][path] = entries
