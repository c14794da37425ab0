"""What lies in a folder now: the tree of its files, with hashes that are computed again only for files that changed."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stoa.failures import Failure
from stoa.ignore_rules import NEVER, IgnoreRules
from stoa.tree_text import TreeEntry, runs, sha, stays

MAX_FILE = 25 << 20
"""Bytes of a file that the server stores."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a file's times tell a later change apart, on every file system."""
KINDS = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "dir"}


class Scanned:
    """The tree of a folder, and what is in no snapshot: `left_out` are links that leave the folder, and files of no ordinary kind."""

    def __init__(self) -> None:
        self.tree: dict[str, TreeEntry] = {}
        self.left_out: list[str] = []
        self.cache: dict[str, list[Any]] = {}
        self.hashed = 0


class FolderScan:
    """Reads a folder. `known` is the tree of its last snapshot: what that has stays in, even if a rule ignores it now. The cache of
    hashes, in the file `cache_file`, may be lost at any time."""

    def __init__(self, root: Path, cache_file: Path, known: dict[str, TreeEntry]) -> None:
        self.root, self.cache_file, self.known = root, cache_file, known
        self.rules = IgnoreRules.of(root)
        self._kept = {above for path in known for above in _folders(path)}

    def read(self) -> Scanned:
        """The folder as it is. Raises Failure for a file that cannot be read or stored."""
        started = time.time_ns()
        old, found = self._cached(), Scanned()
        too_large = []
        for path, status in self._walk("", False, found):
            kind = KINDS[stat.S_IFMT(status.st_mode)]
            if kind == "file" and status.st_size > MAX_FILE:
                too_large.append(path)
            elif kind == "file":
                found.tree[path] = self._file(path, status, old.get(path), started, found)
            elif kind == "dir":
                before = self.known.get(path)
                kept = before.mode if before and before.kind == "dir" else None
                found.tree[path] = TreeEntry(path, "dir", 0o755 if kept is None else kept)
            else:
                self._link(path, found)
        if too_large:
            listed = ", ".join(too_large[:10])
            raise Failure(
                f"Larger than {MAX_FILE >> 20} MB: {listed}. Name them in .stoaignore, or split them.",
                code="PAYLOAD_TOO_LARGE",
                details={"paths": too_large},
            )
        if found.cache != old:
            replace(self.cache_file, json.dumps(found.cache).encode())
        return found

    def _walk(self, folder: str, ignored: bool, found: Scanned) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda each: each.name)
        except OSError as error:
            raise Failure(f"'{folder}' cannot be read: {error.strerror}") from None
        before = self.known.get(folder)
        if folder and ((before and before.kind == "dir") or (not entries and not ignored)):
            yield folder, os.lstat(self.root / folder)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                path.encode()
                status = entry.stat(follow_symlinks=False)
            except UnicodeEncodeError:
                raise Failure(f"The name of {path!r} is not in UTF-8. Rename it, or its folder.") from None
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                out = self.rules.ignored(path, True, ignored)
                # where a rule includes again, or a snapshot has files, there may be something in it
                if (
                    not out
                    or path in self._kept
                    or (self.rules.includes_again and entry.name.casefold() not in NEVER)
                ):
                    yield from self._walk(path, out, found)
            elif path in self.known or not self.rules.ignored(path, False, ignored):
                if stat.S_IFMT(status.st_mode) in KINDS:
                    yield path, status
                else:
                    found.left_out.append(path)

    def _file(
        self, path: str, status: os.stat_result, cached: list[Any] | None, started: int, found: Scanned
    ) -> TreeEntry:
        mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if cached and cached[:4] == mark:
            hash = str(cached[4])
        else:
            hash = sha(read_file(self.root / path))
            found.hashed += 1
        # a file that changed just now may change again within the same tick of the clock
        if max(mark[1], mark[2]) < started - SETTLED:
            found.cache[path] = [*mark, hash]
        return TreeEntry(path, "file", self._mode(path, status), hash, status.st_size)

    def _mode(self, path: str, status: os.stat_result) -> int:
        """The bits of the last snapshot, if they say the same of who may run the file: others depend on the computer."""
        before = self.known.get(path)
        old = before.mode if before and before.kind == "file" else None
        if old is not None and (os.name == "nt" or runs(old) == runs(status.st_mode)):
            return old
        return 0o755 if os.name != "nt" and runs(status.st_mode) else 0o644

    def _link(self, path: str, found: Scanned) -> None:
        target = os.readlink(self.root / path)
        if os.name == "nt":
            target = target.replace("\\", "/")
        try:
            target.encode()
        except UnicodeEncodeError:
            found.left_out.append(path)
            return
        if stays(path, target):
            found.tree[path] = TreeEntry(path, "symlink", target=target)
        else:
            found.left_out.append(path)

    def _cached(self) -> dict[str, Any]:
        try:
            found = json.loads(self.cache_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def read_file(place: Path) -> bytes:
    """The bytes of a file. Raises Failure."""
    try:
        return place.read_bytes()
    except OSError as error:
        raise Failure(f"'{place}' cannot be read: {error.strerror}") from None


def replace(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that it has either the old content or the new, whatever happens meanwhile; `mode` without the bits of the umask."""
    temporary = place.with_name(f"{place.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place)


def _folders(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
