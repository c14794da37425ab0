"""The files of a work of a runner: a tree that was restored into a folder of this computer, its verbs, and what changed there."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from stoa.failures import Failure
from stoa.tree_text import MOST_CHARACTERS, TreeEntry, harmless, runs, sha

IGNORED = frozenset(
    {".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".nox", ".mypy_cache"}
    | {".pytest_cache", ".ruff_cache", ".gradle", ".next", ".turbo", ".stoa"}
)
"""Folders of tools. What they hold is no change, unless it was in the tree."""
INLINE = 4 << 20
"""Bytes of changed files that are sent with the list of them."""
MOST_CHANGED = 20_001
SEARCH_FILE, SEARCH_BYTES, SEARCH_SECONDS = 1 << 20, 128 << 20, 10.0
LINE = 400


class Missing(Failure):
    """Nothing is there."""


class Unusable(Failure):
    """The path or its file cannot be used this way."""


class RestoredTree:
    """The folder of a work. Links are never followed, as a command may have made them lead anywhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.before: dict[str, TreeEntry] = {}
        self._marks: dict[str, tuple[int, ...]] = {}

    def restore(self, tree: dict[str, TreeEntry], bytes_of: Callable[[str], bytes]) -> None:
        """Write the entries of a tree into the folder, which is empty."""
        for entry in sorted(tree.values(), key=lambda each: (each.kind != "dir", each.path)):
            place = self.root.joinpath(*entry.path.split("/"))
            if entry.kind == "dir":
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "symlink":
                os.symlink(entry.target, place)
            else:
                mode = 0o755 if runs(entry.mode) else 0o644
                with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.write(bytes_of(entry.hash))
            self._marks[entry.path] = _mark(os.lstat(place))
        self.before = {path: entry for path, entry in tree.items() if entry.kind != "dir"}

    # verbs

    def list(self, folder: str, limit: int) -> dict[str, Any]:
        """The names in a folder; those of folders end with a slash."""
        place = self._place(folder) if folder else self.root
        if not stat.S_ISDIR(self._status(place, folder).st_mode):
            raise Unusable(f"{folder} is no folder.")
        with os.scandir(place) as found:
            names = [each.name + "/" * each.is_dir(follow_symlinks=False) for each in found]
        return {"names": sorted(name for name in names if _encodes(name))[: max(limit, 0)]}

    def read(self, path: str, offset: int, limit: int, max_bytes: int) -> dict[str, Any]:
        """A part of a file, and the size of the whole."""
        with self._opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise Unusable(
                    f"{path} has {size:,} bytes, more than the {max_bytes:,} that are read at once."
                )
            file.seek(offset)
            return {"size": size, "content": base64.b64encode(file.read(limit)).decode()}

    def write(self, path: str, content: str, offset: int, executable: bool | None) -> dict[str, Any]:
        """Write a part of a file; the first one replaces it."""
        place = self._place(path)
        above = self.root
        for name in path.split("/")[:-1]:
            above = above / name
            if os.path.lexists(above):
                if not stat.S_ISDIR(os.lstat(above).st_mode):
                    raise Unusable(f"{above.relative_to(self.root)} is a file, so nothing can be in it.")
            else:
                above.mkdir()
        if os.path.lexists(place) and not stat.S_ISREG(os.lstat(place).st_mode):
            raise Unusable(f"{path} is a folder or a link.")
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if offset else os.O_TRUNC)
        with open(os.open(place, flags, 0o644), "wb") as file:
            file.seek(offset)
            file.write(base64.b64decode(content))
            if executable is not None:
                os.fchmod(file.fileno(), 0o755 if executable else 0o644)
        return {}

    def delete(self, path: str) -> dict[str, Any]:
        """Delete a file, or a folder with what is in it."""
        place = self._place(path)
        if stat.S_ISDIR(self._status(place, path).st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()
        return {}

    def search(self, words: str, folder: str, limit: int) -> dict[str, Any]:
        """Lines with the words, whatever their case."""
        found: list[list[Any]] = []
        wanted, read = words.casefold(), 0
        end = time.monotonic() + SEARCH_SECONDS
        for path, status in self._files(folder):
            if len(found) >= limit or read > SEARCH_BYTES or time.monotonic() > end:
                return {"matches": found[:limit], "cut": True}
            if not stat.S_ISREG(status.st_mode) or status.st_size > SEARCH_FILE:
                continue
            try:
                with self._opened(path) as file:
                    content = file.read()
            except (OSError, Failure):
                continue
            read += len(content)
            if b"\0" in content[:8192]:
                continue
            for number, line in enumerate(content.decode(errors="replace").split("\n"), start=1):
                if wanted in line.casefold():
                    found.append([path, number, line.rstrip("\r")[:LINE].replace("\0", "\ufffd")])
        return {"matches": found[:limit], "cut": len(found) > limit}

    def changes(self) -> dict[str, Any]:
        """What differs from the tree that was restored, with the bytes of the first files."""
        changes: list[dict[str, Any]] = []
        refused: dict[str, str] = {}
        left, seen = INLINE, set()
        for path, status in self._files(""):
            seen.add(path)
            if _mark(status) == self._marks.get(path):
                continue
            if not harmless(path):
                refused[path[:MOST_CHARACTERS]] = "its name cannot be used on other computers"
                continue
            change = self._changed(path, status, refused, left)
            if change is not None:
                changes.append(change)
                left -= len(change.get("content", "")) * 3 // 4
            if len(changes) >= MOST_CHANGED:
                return {"changes": changes, "refused": refused}
        gone = [path for path in self.before if path not in seen]
        changes += [{"path": path, "kind": "deleted"} for path in sorted(gone)]
        return {"changes": changes, "refused": dict(list(refused.items())[:100])}

    def size(self) -> int:
        """The bytes of all files below the folder."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
        return total

    # below

    def _changed(
        self, path: str, status: os.stat_result, refused: dict[str, str], left: int
    ) -> dict[str, Any] | None:
        before = self.before.get(path)
        place = self.root.joinpath(*path.split("/"))
        try:
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(place)
                if not _encodes(target):
                    refused[path] = "its target is no text"
                    return None
                same = before is not None and before.kind == "symlink" and before.target == target
                return None if same else {"path": path, "kind": "symlink", "target": target}
            if not stat.S_ISREG(status.st_mode):
                refused[path] = "it is no file, folder or link"
                return None
            entry: dict[str, Any] = {"path": path, "kind": "file", "size": status.st_size}
            with self._opened(path) as file:
                small = status.st_size <= left
                data = file.read() if small else b""
                entry["sha256"] = sha(data) if small else _hash(file)
            entry["executable"] = runs(status.st_mode)
        except (OSError, Failure):
            refused[path] = "it cannot be read"
            return None
        if (
            before is not None
            and before.kind == "file"
            and (before.hash, runs(before.mode)) == (entry["sha256"], entry["executable"])
        ):
            return None
        if small:
            entry["content"] = base64.b64encode(data).decode()
        return entry

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """Files, links and others below a folder with their status, in the order of names, without what only tools need."""
        place = self._place(folder) if folder else self.root
        for each in _entries(place):
            path = f"{folder}/{each.name}" if folder else each.name
            if not _encodes(each.name):
                continue
            if each.is_dir(follow_symlinks=False):
                if each.name not in IGNORED or any(old.startswith(f"{path}/") for old in self.before):
                    yield from self._files(path)
                continue
            if not IGNORED.isdisjoint(path.split("/")[:-1]) and path not in self.before:
                continue
            try:
                yield path, os.lstat(each.path)
            except OSError:
                continue

    def _place(self, path: str) -> Path:
        """Where a path is. Raises Unusable below a link, and for a path that leaves the folder."""
        names = path.split("/")
        if any(name in ("", ".", "..") for name in names) or "\0" in path:
            raise Unusable(f"'{path[:200]}' is no path here.")
        place = self.root
        for name in names[:-1]:
            place = place / name
            if place.is_symlink():
                raise Unusable(f"{place.relative_to(self.root)} is a link: name the file itself.")
        return place / names[-1]

    def _status(self, place: Path, path: str) -> os.stat_result:
        try:
            return os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"There is no file or folder {path[:200]}.") from None

    def _opened(self, path: str) -> Any:
        """A regular file, opened for reading. Raises Missing, Unusable."""
        place = self._place(path)
        status = self._status(place, path)
        if stat.S_ISLNK(status.st_mode):
            raise Unusable(f"{path} is a link to {os.readlink(place)[:200]}: name the file itself.")
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"{path} is a folder." if stat.S_ISDIR(status.st_mode) else f"{path} is no file.")
        return open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _entries(place: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if it is gone, or no folder. Raises OSError if it cannot be read: its files are not gone."""
    try:
        try:
            found = os.scandir(place)
        except PermissionError:
            os.chmod(place, 0o700)  # a command closed it
            found = os.scandir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with found:
        return sorted(found, key=lambda each: each.name)


def _hash(file: Any) -> str:
    from hashlib import sha256

    digest = sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
