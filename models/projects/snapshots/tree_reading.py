"""Reading some folders or files of a tree, without the others."""

from collections.abc import Collection
from typing import NamedTuple

import orjson

from models.core.errors import NotFound
from models.projects.snapshots.directory_tree import Row, entry_of_row
from models.projects.snapshots.manifest_store import load_listings
from models.projects.snapshots.manifest_text import MAX_DEPTH, MAX_PATH, Entry

MAX_ROWS = 1_000
"""Rows of a folder that are returned."""


class TreeRow(NamedTuple):
    """What a folder holds: `kind` is `d` for a folder, `f` for a file of `size` bytes, `l` for a link to `target`."""

    name: str
    kind: str
    size: int = 0
    target: str | None = None


class TreeFolder(NamedTuple):
    """A folder: some of its rows, folders first, how many follow them, and how many names it has in all."""

    path: str
    rows: list[TreeRow]
    more: int
    total: int


def read_path(
    account_id: str, root: str, path: str, *, words: str = "", start: int = 0
) -> TreeFolder | Entry:
    """The folder or the file with this path, of the tree `root`; the empty path is the root. Of a folder at most `MAX_ROWS` rows after the
    first `start`, of those alone whose names have the words. Raises NotFound, BlobDamaged."""
    segments = [each for each in path.split("/") if each]
    if len(path) > MAX_PATH or len(segments) > MAX_DEPTH:
        raise _missing()
    here = root
    for number, segment in enumerate(segments, start=1):
        match next((row for row in _rows(account_id, here) if row[0] == segment), None):
            case [_, "d", _, str() as below]:
                here = below
            case [_, "f", mode, hash, size] if number == len(segments):
                return Entry("/".join(segments), "file", mode, hash, size)
            case [_, "l", mode, target] if number == len(segments):
                return Entry("/".join(segments), "symlink", mode, target=target)
            case _:
                raise _missing()
    every = _rows(account_id, here)
    wanted = words.casefold()
    rows = sorted((_row(each) for each in every if wanted in str(each[0]).casefold()), key=_place)
    shown = rows[start : start + MAX_ROWS]
    return TreeFolder("/".join(segments), shown, max(0, len(rows) - start - len(shown)), len(every))


def entries_at(account_id: str, root: str, paths: Collection[str]) -> dict[str, Entry]:
    """What stands at these paths of the tree `root`, by path; nothing for those that it does not name. Reads only the directories above
    them, one level by one query. Raises BlobDamaged."""
    found: dict[str, Entry] = {}
    level: list[tuple[str, str, set[str]]] = [("", root, set(paths))] if paths else []
    while level:
        listings = load_listings(account_id, {hash for _, hash, _ in level})
        below: list[tuple[str, str, set[str]]] = []
        for prefix, hash, inside in level:
            named: dict[str, set[str]] = {}
            for path in inside:
                named.setdefault(path[len(prefix) :].partition("/")[0], set()).add(path)
            for row in orjson.loads(listings[hash]):
                at = f"{prefix}{row[0]}"
                deeper = named.get(row[0], set()) - {at}
                if at in inside and (entry := entry_of_row(at, row)) is not None:
                    found[at] = entry
                if deeper and row[1] == "d":
                    below.append((f"{at}/", row[3], deeper))
        level = below
    return found


def _rows(account_id: str, hash: str) -> list[Row]:
    return list(orjson.loads(load_listings(account_id, [hash])[hash]))


def _row(row: Row) -> TreeRow:
    match row:
        case [str() as name, "f", _, _, int() as size]:
            return TreeRow(name, "f", size)
        case [str() as name, "l", _, str() as target]:
            return TreeRow(name, "l", target=target)
    return TreeRow(str(row[0]), "d")


def _place(row: TreeRow) -> tuple[bool, str, str]:
    return row.kind != "d", row.name.casefold(), row.name


def _missing() -> NotFound:
    return NotFound("There is no such file or folder.")
