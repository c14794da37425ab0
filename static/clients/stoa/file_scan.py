"""What lies in a folder now: the tree of its files, with hashes that are computed again only for files that changed."""

from __future__ import annotations

import json
import os
import stat
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stoa.failures import Failure
from stoa.ignore_rules import FILES, NEVER, IgnoreRules
from stoa.quick_look import FolderLook
from stoa.tree_text import TreeEntry, folders_above, harmless, runs, sha, stays

MAX_FILE = 1 << 30
"""Bytes of a file that this client sends: it holds one in memory. The server may allow less."""
MOST_ENTRIES = 200_000
"""Files and folders of a snapshot that the server stores."""
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
        self.looks: dict[str, FolderLook] = {}
        self.settled = True  # no file may have changed since without other times


class FolderScan:
    """Reads a folder. `known` is the tree of its last snapshot: what that has stays in, even if a rule ignores it now. The cache of
    hashes, in the file `cache_file`, may be lost at any time."""

    def __init__(self, root: Path, cache_file: Path, known: dict[str, TreeEntry]) -> None:
        self.root, self.cache_file, self.known = root, cache_file, known
        self.rules = IgnoreRules.of(root)
        self._kept = folders_above(known)

    def read(self) -> Scanned:
        """The folder as it is. Raises Failure for a file that cannot be read or stored."""
        started = time.time_ns()
        old, found = self._cached(), Scanned()
        too_large = []
        for path, status in self._walk(found):
            kind = KINDS[stat.S_IFMT(status.st_mode)]
            if kind == "file" and status.st_size > MAX_FILE:
                too_large.append(path)
            else:
                entry = self._entry(path, kind, status, old.get(path), started, found)
                if entry is not None:
                    found.tree[path] = entry
        if too_large:
            listed = ", ".join(too_large[:10])
            raise Failure(
                f"Larger than {MAX_FILE >> 20} MB: {listed}. Name them in .stoaignore, or split them.",
                code="PAYLOAD_TOO_LARGE",
                details={"paths": too_large},
            )
        if len(found.tree) > MOST_ENTRIES:
            raise Failure(
                f"The folder has {len(found.tree):,} files, and a snapshot at most {MOST_ENTRIES:,}. Name folders of generated files in .stoaignore.",
                code="MANIFEST_TOO_LARGE",
            )
        self._keep_collisions(found)
        if found.cache != old:
            replace(self.cache_file, json.dumps(found.cache, separators=(",", ":")).encode())
        return found

    def _walk(self, found: Scanned) -> Iterator[tuple[str, os.stat_result]]:
        waiting = [("", False)]
        while waiting:
            folder, ignored = waiting.pop()
            try:
                with os.scandir(self.root / folder) as listing:
                    entries = list(listing)
                before = self.known.get(folder)
                if folder and ((before and before.kind == "dir") or (not entries and not ignored)):
                    yield folder, os.lstat(self.root / folder)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not folder:
                    raise unreadable(self.root, error) from None
                found.settled = False
                continue  # it went while its neighbours were read
            except OSError as error:
                raise unreadable(folder or self.root, error) from None
            look = found.looks[folder] = FolderLook(entries)
            prefix = f"{folder}/" if folder else ""
            for number, entry in enumerate(entries):
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    out = self.rules.ignored(path, True, ignored)
                    if self._enters(path, entry.name, out, found):
                        waiting.append((path, out))
                    else:
                        look.ignore(number)
                elif path in self.known or not self.rules.ignored(path, False, ignored):
                    status = self._status(path, entry, found)
                    if status is not None:
                        yield path, status
                elif path not in FILES:
                    look.ignore(number)

    def _enters(self, path: str, name: str, ignored: bool, found: Scanned) -> bool:
        """Whether there may be something of a snapshot in a folder: where a rule includes again too, or where the last one has files."""
        again = self.rules.includes_again and name.casefold() not in NEVER
        return (not ignored or path in self._kept or again) and self._takes(path, found)

    def _status(self, path: str, entry: os.DirEntry[str], found: Scanned) -> os.stat_result | None:
        """The status of what a snapshot can have; None for what it cannot, or for what went meanwhile."""
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            found.settled = False
            return None
        if path not in self.known and not self._takes(path, found):
            return None
        if stat.S_IFMT(status.st_mode) in KINDS:
            return status
        found.left_out.append(path)
        return None

    def _takes(self, path: str, found: Scanned) -> bool:
        """Whether a snapshot can have this name. Raises Failure for one that is not text."""
        if harmless(path):
            return True
        try:
            path.encode()
        except UnicodeEncodeError:
            raise Failure(
                f"The name of {path!r} is not in UTF-8. Rename it, or its folder.", code="BAD_NAME"
            ) from None
        found.left_out.append(path)
        return False

    def _entry(
        self,
        path: str,
        kind: str,
        status: os.stat_result,
        cached: list[Any] | None,
        started: int,
        found: Scanned,
    ) -> TreeEntry | None:
        """What a snapshot has of a path; None for a link that leaves the folder, or for what went meanwhile."""
        try:
            if kind == "file":
                return self._file(path, status, cached, started, found)
            if kind == "symlink":
                return self._link(path, found)
        except FileNotFoundError:
            found.settled = False
            return None
        before = self.known.get(path)
        kept = before.mode if before and before.kind == "dir" else None
        return TreeEntry(path, "dir", 0o755 if kept is None else kept)

    def _file(
        self, path: str, status: os.stat_result, cached: list[Any] | None, started: int, found: Scanned
    ) -> TreeEntry:
        mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        size = status.st_size
        if cached and cached[:4] == mark:
            hash = str(cached[4])
        else:
            try:
                data = (self.root / path).read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise unreadable(path, error) from None
            hash, size = sha(data), len(data)
            found.hashed += 1
        # a file that changed just now may change again within the same tick of the clock
        if max(mark[1], mark[2]) < started - SETTLED:
            found.cache[path] = [*mark, hash]
        else:
            found.settled = False
        mode, before = self._mode(path, status), self.known.get(path)
        if before is not None and (before.kind, before.hash, before.mode, before.size) == (
            "file",
            hash,
            mode,
            size,
        ):
            return before
        return TreeEntry(path, "file", mode, hash, size)

    def _mode(self, path: str, status: os.stat_result) -> int:
        """The bits of the last snapshot, if they say the same of who may run the file: others depend on the computer."""
        before = self.known.get(path)
        old = before.mode if before and before.kind == "file" else None
        if old is not None and (os.name == "nt" or runs(old) == runs(status.st_mode)):
            return old
        return 0o755 if os.name != "nt" and runs(status.st_mode) else 0o644

    def _link(self, path: str, found: Scanned) -> TreeEntry | None:
        target = os.readlink(self.root / path)
        if os.name == "nt":
            target = target.replace("\\", "/")
        try:
            target.encode()
        except UnicodeEncodeError:
            found.left_out.append(path)
            return None
        if stays(path, target):
            return TreeEntry(path, "symlink", target=target)
        found.left_out.append(path)
        return None

    def _keep_collisions(self, found: Scanned) -> None:
        """Names that this computer takes for one, as Windows and macOS do, can be written only once: the others stay as the last snapshot
        has them, instead of being deleted for everyone."""
        missing = [path for path in self.known if path not in found.tree]
        if not missing:
            return
        written = {one_name(path) for path in found.tree if path in self.known}
        for path in missing:
            if one_name(path) in written and os.path.lexists(self.root / path):
                found.tree[path] = self.known[path]

    def _cached(self) -> dict[str, Any]:
        try:
            found = json.loads(self.cache_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def one_name(path: str) -> str:
    """A path as the least exact of file systems compares it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def unreadable(path: object, error: OSError) -> Failure:
    """A file or folder cannot be read."""
    return Failure(
        f"'{path}' cannot be read: {error.strerror}. Change its rights, or name it in .stoaignore.",
        code="UNREADABLE",
        details={"path": str(path)},
    )


def read_file(place: Path) -> bytes:
    """The bytes of a file. Raises Failure."""
    try:
        return place.read_bytes()
    except OSError as error:
        raise unreadable(place, error) from None


def replace(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that it has either the old content or the new, whatever happens meanwhile; `mode` without the bits of the umask."""
    temporary = place.with_name(f"{place.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
