"""Writing a tree into a folder: only over what is there as expected, so that no file which is in no snapshot is lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from stoa.failures import Failure
from stoa.tree_text import TreeEntry, runs, sha
from stoa.working_copy import FOLDER

Bytes = Callable[[str], Optional[bytes]]


class _Found(NamedTuple):
    """What was at a place when it was looked at."""

    entry: TreeEntry
    mark: tuple[int, ...]

    def still(self, place: Path) -> bool:
        """Whether nobody wrote there since."""
        try:
            return _mark(os.lstat(place)) == self.mark
        except FileNotFoundError:
            return False


class TreeWriter:
    """Brings the folder `root` from one tree to another. `bytes_of` reads the files that are written, by hash. A path that has neither the
    old content nor the new is left as it is, and listed in `kept`. Repeating it after a crash finishes the work."""

    def __init__(self, root: Path, bytes_of: Bytes) -> None:
        self.root, self.bytes_of = root, bytes_of
        self.kept: list[str] = []
        self.written = 0
        self.removed = 0

    def write(self, before: dict[str, TreeEntry], after: dict[str, TreeEntry]) -> None:
        """Remove what only `before` has, deepest first, then write what differs in `after`."""
        gone = [path for path in before if path not in after or after[path].kind != before[path].kind]
        for path in sorted(gone, key=lambda each: (-each.count("/"), each)):
            self._remove(before[path], after.get(path))
        order = sorted(after.values(), key=lambda each: (each.kind != "dir", each.path))
        for entry in order:
            if not entry.same(before.get(entry.path)) or entry.kind == "dir":
                self._put(before.get(entry.path), entry)

    def _remove(self, entry: TreeEntry, wanted: TreeEntry | None) -> None:
        place = self._place(entry.path)
        found = self._found(place)
        if found is None or (wanted is not None and _same(wanted, found.entry)):
            return
        if entry.kind == "dir" or found.entry.kind == "dir":
            self._remove_folder(place)
        elif not _same(entry, found.entry) or not found.still(place):
            self.kept.append(entry.path)
        else:
            place.unlink()
            self.removed += 1
            # a folder that no entry names was there for its files
            for above in list(place.parents)[: entry.path.count("/")]:
                if not self._remove_folder(above):
                    break

    def _remove_folder(self, place: Path) -> bool:
        try:
            place.rmdir()
        except OSError:
            return False
        return True

    def _put(self, before: TreeEntry | None, entry: TreeEntry) -> None:
        place = self._place(entry.path)
        if not self._make_folders(entry.path):
            self.kept.append(entry.path)
            return
        found = self._found(place)
        if found is not None and _same(entry, found.entry):
            return
        expected = before if before is None or before.kind == entry.kind else None
        if found is not None and not (expected is not None and _same(expected, found.entry)):
            self.kept.append(entry.path)
            return
        if entry.kind == "dir":
            place.mkdir(exist_ok=True)
            return
        if found is None and expected is not None:
            self.kept.append(entry.path)  # removed here meanwhile
            return
        if self._replace(place, entry, found):
            self.written += 1
        else:
            self.kept.append(entry.path)

    def _replace(self, place: Path, entry: TreeEntry, found: _Found | None) -> bool:
        """Put the new content at its place; False if something came there, or changed, since it was looked at."""
        temporary = self.root / FOLDER / "writing"
        temporary.unlink(missing_ok=True)
        if entry.kind == "symlink":
            os.symlink(entry.target, temporary)
        else:
            data = self.bytes_of(entry.hash)
            if data is None:
                raise Failure(f"The bytes of '{entry.path}' are missing.", code="BYTES_MISSING")
            mode = 0o644 if entry.mode is None else (entry.mode & 0o777) | 0o600
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
                file.write(data)
        if found is None:
            return _moved_to_nothing(temporary, place)
        if not found.still(place):
            return False
        os.replace(temporary, place)
        return True

    def _make_folders(self, path: str) -> bool:
        """Make the folders above a path; False if one is a file or a link, through which nothing is written."""
        place = self.root
        for name in path.split("/")[:-1]:
            place = place / name
            try:
                place.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(place).st_mode):
                    return False
        return True

    def _found(self, place: Path) -> _Found | None:
        """What is there now; None for nothing, or below a link."""
        at = self.root
        for name in place.relative_to(self.root).parts[:-1]:
            at = at / name
            if at.is_symlink():
                return None
        try:
            status = os.lstat(place)
            return _Found(_entry_at(place, status), _mark(status))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _place(self, path: str) -> Path:
        return self.root.joinpath(*path.split("/"))


def _entry_at(place: Path, status: os.stat_result) -> TreeEntry:
    """What is at a place, without its path. Raises FileNotFoundError if it goes meanwhile."""
    if stat.S_ISDIR(status.st_mode):
        return TreeEntry("", "dir")
    if stat.S_ISLNK(status.st_mode):
        return TreeEntry("", "symlink", target=os.readlink(place))
    if not stat.S_ISREG(status.st_mode):
        return TreeEntry("", "other")
    mode = 0o755 if runs(status.st_mode) else 0o644
    return TreeEntry("", "file", mode, sha(place.read_bytes()), status.st_size)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _moved_to_nothing(temporary: Path, place: Path) -> bool:
    """Move a file where nothing is; False if something came there meanwhile."""
    try:
        os.link(temporary, place, follow_symlinks=False)
        temporary.unlink()
    except FileExistsError:
        return False
    except (OSError, NotImplementedError):
        # a file system without hard links
        if os.path.lexists(place):
            return False
        os.rename(temporary, place)
    return True


def _same(entry: TreeEntry, found: TreeEntry) -> bool:
    """Whether an entry is what was found; Windows knows of no right to run a file."""
    return entry.same(found._replace(mode=entry.mode) if os.name == "nt" else found)
