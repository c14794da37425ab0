"""Manifests: the text that lists the files of a tree, which its hash names, and the check that a text of the server is harmless here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from stoa.failures import Failure
from stoa.ignore_rules import NEVER

HASH = re.compile(r"[0-9a-f]{64}")
_text = json.JSONEncoder(ensure_ascii=False).encode
_ESCAPES = (
    ("&", "\\u0026"),
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+@=-]*/)*[A-Za-z0-9_][A-Za-z0-9_.+@=-]*")
"""Paths of ordinary names, which need no closer look except on Windows."""
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|$)")
MOST_CHARACTERS, MOST_FOLDERS = 4096, 200
"""Of a path, as the server has them."""


class TreeEntry(NamedTuple):
    """A file, a folder or a link; `mode` are its permission bits."""

    path: str
    kind: str
    mode: int | None = None
    hash: str = ""
    size: int = 0
    target: str = ""

    def same(self, other: TreeEntry | None) -> bool:
        """Whether both have the same content, and a file the same right to be run."""
        if other is None or (self.kind, self.hash, self.target) != (other.kind, other.hash, other.target):
            return False
        return self.kind != "file" or runs(self.mode) == runs(other.mode)


def runs(mode: int | None) -> bool:
    """Whether these permission bits let the owner run the file."""
    return bool((mode or 0) & 0o100)


def sha(data: bytes) -> str:
    """The SHA-256 of bytes in hexadecimal digits."""
    from hashlib import sha256  # commands on a folder without changes hash nothing

    return sha256(data).hexdigest()


def tree_text(entries: Iterable[TreeEntry]) -> bytes:
    """The canonical text of these entries (typed: sorted by the bytes of the paths, escaped as Go does)."""
    ordered = sorted(entries, key=lambda each: (each.path.encode(), each.kind))
    files = ",\n".join(map(_written, ordered))
    text = f"[\n{files}\n  ]" if files else "[]"
    text = f'{{\n  "version": "1",\n  "files": {text}\n}}'
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text.encode()


def read_tree(text: bytes) -> dict[str, TreeEntry]:
    """The entries of a manifest by path. Raises Failure for one that could do harm on this computer."""
    try:
        manifest = json.loads(text)
        found = {entry.path: entry for entry in map(_read, manifest["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise _harmful(f"it cannot be read ({error})") from None
    if len(found) != len(manifest["files"]):
        raise _harmful("it names a path twice")
    for above in folders_above(found):
        if above in found and found[above].kind != "dir":
            raise _harmful(f"something lies below '{above}', which is a file or link")
    return found


def folders_above(paths: Iterable[str]) -> set[str]:
    """All folders that these paths lie in."""
    found: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in paths}:
        above = folder
        while above and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def changes(before: dict[str, TreeEntry], after: dict[str, TreeEntry]) -> dict[str, str]:
    """What became of each path that differs: added, modified or deleted."""
    found = {path: "deleted" for path in before if path not in after}
    for path, entry in after.items():
        if path not in before:
            found[path] = "added"
        elif entry is not before[path] and not entry.same(before[path]):
            found[path] = "modified"
    return dict(sorted(found.items()))


def _written(entry: TreeEntry) -> str:
    """An entry as the indented JSON of `json.dumps` has it, which takes ten times as long."""
    if entry.kind == "symlink":
        rows = ['"type": "symlink"', f'"path": {_text(entry.path)}', f'"target": {_text(entry.target)}']
    elif entry.kind == "dir":
        rows = ['"type": "dir"', f'"path": {_text(entry.path)}', f'"mode": {_number(entry.mode)}']
    else:
        size = [f'"size": {entry.size}'] if entry.size else []
        rows = ['"type": "file"', f'"path": {_text(entry.path)}', f'"hash": "{entry.hash}"', *size]
        rows.append(f'"mode": {_number(entry.mode)}')
    return "    {\n      " + ",\n      ".join(rows) + "\n    }"


def described(entry: TreeEntry) -> dict[str, Any]:
    """An entry as a manifest has it."""
    found: dict[str, Any] = {"type": entry.kind, "path": entry.path}
    if entry.kind == "symlink":
        return {**found, "target": entry.target}
    if entry.kind == "file":
        found.update(hash=entry.hash, size=entry.size)
    return {**found, "mode": entry.mode}


def _number(mode: int | None) -> str:
    return "null" if mode is None else str(mode)


def _read(value: dict[str, Any]) -> TreeEntry:
    path, kind = value["path"], value.get("type", "file")
    if not isinstance(path, str) or not harmless(path):
        raise _harmful(f"'{path}' is no path that may be written here")
    mode = value.get("mode")
    if mode is not None and (type(mode) is not int or not 0 <= mode <= 0o7777):
        raise _harmful(f"'{path}' has no mode that can be set")
    if kind == "dir":
        return TreeEntry(path, "dir", mode)
    if kind == "symlink":
        target = value["target"]
        if not isinstance(target, str) or not stays(path, target):
            raise _harmful(f"the link '{path}' leaves the project")
        return TreeEntry(path, "symlink", mode, target=target)
    if kind != "file" or not HASH.fullmatch(value["hash"]):
        raise _harmful(f"'{path}' is no file, folder or link")
    return TreeEntry(path, "file", mode, value["hash"], int(value.get("size", 0)))


def harmless(path: str) -> bool:
    """Whether a path may be written on any computer, and be sent to the server."""
    if os.name != "nt" and len(path) < 256 and _PLAIN.fullmatch(path):
        return True
    names = path.split("/")
    return (
        0 < len(path) <= MOST_CHARACTERS
        and len(names) <= MOST_FOLDERS
        and "\0" not in path
        and not path.startswith("\\")
        and not _DRIVE.match(path)
        and not any(0xD800 <= ord(each) < 0xE000 for each in path)
        and ".." not in path.replace("\\", "/").split("/")
        and all(_harmless_name(each) for each in names)
    )


def _harmless_name(name: str) -> bool:
    """Whether no system takes the name for another, or for a folder that steers this client or Git."""
    if name in ("", ".", ".."):
        return False
    bare = "".join(each for each in name if each.isprintable()).casefold().rstrip(". ")
    if bare in NEVER or re.fullmatch(r"(git|stoa)~\d", bare):
        return False
    return os.name != "nt" or not (set(name) & set('\\:*?"<>|') or name[-1] in ". " or _DEVICES.match(name))


def stays(path: str, target: str) -> bool:
    """Whether a link at this path with this target leads to something in the project."""
    if (
        len(target) > MOST_CHARACTERS
        or not target
        or "\0" in target
        or target[0] in "/\\"
        or re.match(r"[A-Za-z]:", target)
    ):
        return False
    depth = path.count("/")
    for name in target.replace("\\", "/").split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(name, 1)
        if depth < 0 or name.casefold() in NEVER:
            return False
    return True


def _harmful(problem: str) -> Failure:
    return Failure(f"The list of files is refused: {problem}.", code="MANIFEST_INVALID")
