"""A stored tree on disk: restored, brought from another one, and what programs changed in it."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.core.cooperative import TimeSlices
from models.core.errors import Invalid
from models.projects.snapshots.blob_packs import MAX_BLOB, blob_stream, read_blobs
from models.projects.snapshots.manifest_text import MAX_DEPTH, Entry, path_problem, target_problem
from models.runners.open_folders import FOLDER, opened_folder, read_file, subfolder
from models.runners.tree_paths import CACHE_MARK, IGNORED
from models.runners.workplace import FileChange, TreeChanges

BATCH = 500
"""Files whose bytes are in memory at once, at most."""
BATCH_BYTES = 64 << 20
MAX_SCANNED = 200_000
"""Files that are looked at for changes."""
MAX_CHANGED_BYTES = 256 << 20
"""Bytes of the changed files of one tree."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells that a file was not touched: programs cannot set the time of its last change (`ctime`)."""

    inode: int
    size: int
    ctime: int


@dataclass
class DiskTree:
    """A folder and what is known of it: for each path what was put there, and its stamp then. `owner`: the user that its files belong to, None for the server's own."""

    root: Path
    owner: int | None
    entries: dict[str, Entry] = field(default_factory=dict)
    stamps: dict[str, _Stamp] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    # -- restoring -----------------------------------------------------------------------------------------

    def become(self, account_id: str, entries: Collection[Entry]) -> None:
        """Make the folder hold exactly these entries: what has not changed since it was put there stays. No program may run there. Raises FilesUnavailable
        (503), BlobDamaged, Invalid if the disk is full."""
        wanted = {entry.path: entry for entry in entries}
        self.folders = {above for path in wanted for above in _above(path)}
        self.folders |= {entry.path for entry in entries if entry.kind == "dir"}
        kept = self._keep(wanted)
        self.entries, self.stamps = wanted, {path: self.stamps[path] for path in kept}
        try:
            for folder in sorted(self.folders):
                self._make_folder(folder)
            self._write_all(account_id, [entry for path, entry in wanted.items() if path not in kept])
        except OSError as error:
            raise Invalid(f"The files cannot be put on this server's disk: {error.strerror}.") from None

    def _keep(self, wanted: Mapping[str, Entry]) -> set[str]:
        """Remove what is not wanted; the paths that stay."""
        kept: set[str] = set()
        gone: list[tuple[str, bool]] = []
        for path, found in scan(self.root, lambda path: True):
            entry = wanted.get(path)
            folder = stat.S_ISDIR(found.st_mode)
            if folder and path in self.folders:
                continue
            same = entry is not None and entry == self.entries.get(path) and not folder
            if same and self.stamps.get(path) == _stamp(found):
                kept.add(path)
            else:
                gone.append((path, folder))
        for path, folder in reversed(gone):
            full = os.path.join(self.root, path)
            os.rmdir(full) if folder else os.unlink(full)
        return kept

    def _make_folder(self, folder: str) -> None:
        full = os.path.join(self.root, folder)
        try:
            os.mkdir(full, 0o755)
        except FileExistsError:
            os.chmod(full, 0o755)  # noqa: S103 - as it was made
        if self.owner is not None:
            os.chown(full, self.owner, self.owner)

    def _write_all(self, account_id: str, entries: list[Entry]) -> None:
        places: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.kind == "symlink":
                self._link(entry)
            elif entry.kind == "file" and entry.hash is not None:
                places.setdefault(entry.hash, []).append(entry)
        missing = dict.fromkeys(places)
        slices = TimeSlices()
        for batch in _batches(places):
            for hash, content in read_blobs(account_id, batch):
                missing.pop(hash, None)
                for entry in places[hash]:
                    self._write(entry, iter([content]))
                slices.pause()
        for hash in missing:
            streamed = blob_stream(account_id, hash)
            if streamed is None:
                raise Invalid(
                    f"The bytes of {places[hash][0].path[:200]} are not on the server.", code="file_missing"
                )
            for entry in places[hash]:
                self._write(entry, (blob_stream(account_id, hash) or streamed)[1])

    def _write(self, entry: Entry, pieces: Iterator[bytes]) -> None:
        mode = 0o755 if (entry.mode or 0) & 0o100 else 0o644
        full = os.path.join(self.root, entry.path)
        number = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(number, left) :]
            if self.owner is not None:
                os.fchown(number, self.owner, self.owner)
            found = os.fstat(number)
            if stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(number, mode)
                found = os.fstat(number)
            self.stamps[entry.path] = _stamp(found)
        finally:
            os.close(number)

    def _link(self, entry: Entry) -> None:
        full = os.path.join(self.root, entry.path)
        os.symlink(entry.target or "", full)
        if self.owner is not None:
            os.chown(full, self.owner, self.owner, follow_symlinks=False)
        self.stamps[entry.path] = _stamp(os.lstat(full))

    # -- changes -------------------------------------------------------------------------------------------

    def changes(self) -> TreeChanges:
        """What differs from what was put there; see `Workplace.changes`. Files whose stamp differs are read. Raises Invalid for too many files or bytes."""
        found, seen, total = TreeChanges(), set[str](), 0
        for path, row in scan(self.root, self._enters):
            if stat.S_ISDIR(row.st_mode):
                if path.count("/") >= MAX_DEPTH:
                    found.refused[_shown(path)] = "The folder is too deep."
                continue
            seen.add(path)
            if path in self.entries and self.stamps.get(path) == _stamp(row):
                continue
            problem, change = self._look(path, row)
            if problem:
                found.refused[_shown(path)] = problem
            elif change is not None:
                total += len(change.content or b"")
                if total > MAX_CHANGED_BYTES:
                    raise Invalid(
                        f"The changed files have more than {MAX_CHANGED_BYTES >> 20} MB. Delete what was generated, or put it into an ignored folder.",
                        code="limit_reached",
                    )
                found[path] = change
        for path, entry in self.entries.items():
            if path not in seen and entry.kind != "dir" and _shown(path) not in found.refused:
                found[path] = FileChange()
        ordered = TreeChanges(dict(sorted(found.items())))
        ordered.refused = found.refused
        return ordered

    def _enters(self, path: str) -> bool:
        """Whether a folder is looked into: one of a tool only if it was stored."""
        if path in self.folders or not path:
            return True
        name = path.rpartition("/")[2]
        return name not in IGNORED and not (self.root / path / CACHE_MARK).is_file()

    def _look(self, path: str, row: os.stat_result) -> tuple[str, FileChange | None]:
        """What is wrong with a file, or how it differs; neither if it is the same."""
        problem = path_problem(path) or _text_problem(path)
        if problem:
            return f"A tree cannot hold it: {problem}.", None
        above, _, name = path.rpartition("/")
        before = self.entries.get(path)
        try:
            with opened_folder(self.root, above) as folder:
                if stat.S_ISLNK(row.st_mode):
                    return _look_at_link(path, os.readlink(name, dir_fd=folder), before)
                if not stat.S_ISREG(row.st_mode):
                    return "It is no ordinary file.", None
                content = read_file(folder, name, path, MAX_BLOB)
        except OSError:
            return "It cannot be read.", None
        except Invalid as invalid:
            return invalid.message, None
        executable = bool(row.st_mode & 0o100)
        if (
            before is not None
            and before.kind == "file"
            and bool((before.mode or 0) & 0o100) == executable
            and before.size == len(content)
            and before.hash == hashlib.sha256(content).hexdigest()
        ):
            return "", None
        return "", FileChange(content, executable)


def _look_at_link(path: str, target: str, before: Entry | None) -> tuple[str, FileChange | None]:
    problem = target_problem(path, target) or _text_problem(target)
    if problem:
        return f"A tree cannot hold this link: {problem}.", None
    if before is not None and before.kind == "symlink" and before.target == target:
        return "", None
    return "", FileChange(target=target)


def scan(root: Path | int, enters: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder or its descriptor, each folder before what is in it. Follows no links. Raises Invalid for too many files."""
    top = os.dup(root) if isinstance(root, int) else os.open(root, FOLDER)
    stack: list[tuple[int, str, list[str]]] = []
    count = 0
    slices = TimeSlices()
    try:
        stack.append((top, "", _names(top)))
        while stack:
            folder, prefix, names = stack[-1]
            if not names:
                os.close(folder)
                stack.pop()
                continue
            name = names.pop()
            path = prefix + name
            try:
                row = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                continue
            count += 1
            if count > MAX_SCANNED:
                raise Invalid(f"There are more than {MAX_SCANNED:,} files.", code="limit_reached")
            slices.pause()
            yield path, row
            if stat.S_ISDIR(row.st_mode) and path.count("/") < MAX_DEPTH and enters(path):
                below = subfolder(folder, name)
                if below is not None:
                    stack.append((below, f"{path}/", _names(below)))
    finally:
        for folder, _, _ in stack:
            os.close(folder)


def _names(folder: int) -> list[str]:
    try:
        return sorted(os.listdir(folder), reverse=True)
    except OSError:
        return []


def _stamp(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_ino, found.st_size, found.st_ctime_ns)


def _above(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _batches(places: Mapping[str, list[Entry]]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for hash, entries in places.items():
        batch.append(hash)
        size += entries[0].size
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _shown(path: str) -> str:
    """A path as text that can be stored."""
    return path.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _text_problem(text: str) -> str:
    return "the name is not Unicode text" if text != _shown(text) else ""
