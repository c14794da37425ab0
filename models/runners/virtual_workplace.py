"""The level `virtual`: files are read from storage when they are asked for, and changed in memory; nothing is executed."""

import builtins
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from models.core.errors import Invalid, NotFound
from models.projects.snapshots.blob_packs import MAX_BLOB
from models.projects.snapshots.manifest_text import Entry
from models.runners.changed_tree import mode_of
from models.runners.isolation_levels import LevelState, WorkplaceRequest, register_level
from models.runners.line_search import MAX_FILE, LineSearch
from models.runners.stored_tree import StoredTree
from models.runners.tree_paths import file_path, folder_path, ignored
from models.runners.workplace import (
    CommandResult,
    FileChange,
    Level,
    Matches,
    NoProcesses,
    TreeChanges,
)

MAX_BYTES = 64 << 20
"""Bytes that are kept in memory for one workplace."""
MAX_CHANGED = 10_000
"""Files that one workplace writes or deletes."""
BATCH = 100
"""Files that are read at once by a search."""
SENTENCE = (
    "Virtual: files are read, searched and changed on the server; nothing is executed. Works everywhere."
)

Standing = FileChange | Entry | None
"""A file or link at a path: one that was written here, or one of the stored tree."""


class VirtualWorkplace:
    """See `Workplace`. Safe for several threads."""

    level: Level = "virtual"

    def __init__(self, request: WorkplaceRequest) -> None:
        self._tree = StoredTree(request.account_id, request.root_manifest_hash, request.context)
        self._most = min(request.limits.disk_bytes, MAX_BYTES)
        self._socket = request.socket
        self._own: dict[str, FileChange] = {}
        self._gone: set[str] = set()
        """Folders of the stored tree that were deleted."""
        self._lock = threading.RLock()

    def list(self, folder: str = "", *, limit: int = 1_000) -> builtins.list[str]:
        """See `Workplace`."""
        folder = folder_path(folder)
        with self._lock:
            return self._names(folder)[: max(limit, 0)]

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See `Workplace`."""
        path = file_path(path)
        with self._lock:
            found = self._standing(path)
            if found is None:
                raise Invalid(f"{path} is a folder.") if self._is_folder(path) else _missing(path)
            if found.target is not None:
                raise _link(path, found.target)
            size = len(found.content or b"") if isinstance(found, FileChange) else found.size
            if size > max_bytes or size > MAX_BLOB:
                raise Invalid(
                    f"{path} has {size:,} bytes, more than the {max_bytes:,} that are read at once."
                )
            if isinstance(found, FileChange):
                return found.content or b""
            return self._tree.content(found)

    def write(self, path: str, content: bytes, *, executable: bool | None = None) -> None:
        """See `Workplace`."""
        path = file_path(path)
        with self._lock:
            self._check_place(path)
            before = self._standing(path)
            self._check_limits(path, len(content))
            if executable is None:
                executable = _is_executable(before)
            self._own[path] = FileChange(bytes(content), executable)

    def delete(self, path: str) -> None:
        """See `Workplace`."""
        path = file_path(path)
        with self._lock:
            folder = self._standing(path) is None
            if folder and not self._is_folder(path):
                raise _missing(path)
            for each in [own for own in self._own if own == path or own.startswith(f"{path}/")]:
                del self._own[each]
            if folder:
                self._gone.add(path)
            elif self._stored(path) is not None:
                self._check_limits(path, 0)
                self._own[path] = FileChange()

    def search(self, words: str, *, folder: str = "", limit: int = 200) -> Matches:
        """See `Workplace`."""
        folder = folder_path(folder)
        if not words.strip():
            raise Invalid("Say what to search for.")
        search = LineSearch(words, limit)
        with self._lock:
            self._names(folder)
            paths = self._below(folder)
            while (batch := tuple(islice(paths, BATCH))) and not search.over:
                self._search_batch(search, batch)
        return search.found

    def run(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[str], None] | None = None,
    ) -> CommandResult:
        """See `Workplace`."""
        raise NoProcesses("This level runs no commands: files can be read, searched and changed.")

    def close_hosts(self) -> None:
        """See `Workplace`: none is open here."""

    def stop(self) -> None:
        """See `Workplace`."""

    def changes(self) -> TreeChanges:
        """See `Workplace`."""
        with self._lock:
            found = TreeChanges()
            for folder in self._gone:
                for entry in self._tree.below(folder):
                    found[entry.path] = FileChange()
            found.update(self._own)
            for path, change in [*found.items()]:
                of_tool = ignored(path) and self._tree.entry(path) is None
                if of_tool or self._is_same(path, change):
                    del found[path]
            return TreeChanges(dict(sorted(found.items())))

    def close(self) -> None:
        """See `Workplace`."""
        with self._lock:
            self._own.clear()
        if self._socket is not None:
            self._socket.close()

    # -- what stands where ---------------------------------------------------------------------------------

    def _stored(self, path: str) -> Entry | None:
        """What the stored tree has there, unless its folder was deleted."""
        return None if self._was_deleted(path) else self._tree.entry(path)

    def _was_deleted(self, path: str) -> bool:
        segments = path.split("/")
        return any("/".join(segments[:n]) in self._gone for n in range(1, len(segments) + 1))

    def _standing(self, path: str) -> Standing:
        own = self._own.get(path)
        if own is not None:
            return None if own.deleted else own
        return self._stored(path)

    def _is_folder(self, path: str) -> bool:
        if not path or any(own.startswith(f"{path}/") and not c.deleted for own, c in self._own.items()):
            return True
        if self._own.get(path) is not None or self._was_deleted(path):
            return False
        return self._tree.rows(path) is not None

    def _names(self, folder: str) -> builtins.list[str]:
        """Names in a folder. Raises NotFound, and Invalid for a file or link."""
        if not self._is_folder(folder):
            found = self._standing(folder)
            if found is None:
                raise _missing(folder)
            if found.target is not None:
                raise _link(folder, found.target)
            raise Invalid(f"{folder} is a file.")
        prefix = f"{folder}/" if folder else ""
        names: set[str] = set()
        if not folder or not self._was_deleted(folder):
            for name, row in (self._tree.rows(folder) or {}).items():
                if prefix + name not in self._own and prefix + name not in self._gone:
                    names.add(f"{name}/" if row[1] == "d" else name)
        for path, change in self._own.items():
            if path.startswith(prefix) and not change.deleted:
                name, deeper, _ = path[len(prefix) :].partition("/")
                names.add(name + deeper)
        return sorted(names)

    def _below(self, folder: str) -> Iterator[str]:
        """Paths of the files below a folder, without those of tools."""
        for name in self._names(folder):
            path = f"{folder}/{name}" if folder else name
            if not name.endswith("/"):
                yield path
            elif not ignored(f"{path}x"):
                yield from self._below(path.rstrip("/"))

    def _search_batch(self, search: LineSearch, paths: tuple[str, ...]) -> None:
        standing = {path: self._standing(path) for path in paths}
        stored = {
            path: entry.hash
            for path, entry in standing.items()
            if isinstance(entry, Entry) and entry.hash and entry.size <= MAX_FILE
        }
        contents = self._tree.contents(set(stored.values())) if stored else {}
        for path, found in standing.items():
            if search.over:
                return
            own = found.content if isinstance(found, FileChange) else contents.get(stored.get(path, ""))
            if own is not None:
                search.offer(path, own)

    # -- changing ------------------------------------------------------------------------------------------

    def _check_place(self, path: str) -> None:
        segments = path.split("/")
        for count in range(1, len(segments) + 1):
            here = "/".join(segments[:count])
            found = self._standing(here)
            if found is not None and found.target is not None:
                raise _link(here, found.target)
            if found is not None and count < len(segments):
                raise Invalid(f"{here} is a file, so nothing can be in it.")
        if self._is_folder(path):
            raise Invalid(f"{path} is a folder.")

    def _check_limits(self, path: str, size: int) -> None:
        if size > MAX_BLOB:
            raise Invalid(f"A file may have {MAX_BLOB >> 20} MB.", code="limit_reached")
        others = sum(len(each.content or b"") for own, each in self._own.items() if own != path)
        if others + size > self._most:
            raise Invalid(
                f"The files written here have more than {self._most >> 20} MB.", code="limit_reached"
            )
        if len(self._own) >= MAX_CHANGED and path not in self._own:
            raise Invalid(f"At most {MAX_CHANGED:,} files may be changed at once.", code="limit_reached")

    def _is_same(self, path: str, change: FileChange) -> bool:
        """Whether the stored tree has the same there."""
        before = self._tree.entry(path)
        if change.content is None or before is None:
            return change.deleted and before is None
        same_mode = mode_of(change.executable, before) == before.mode or before.mode is None
        return (
            before.kind == "file"
            and same_mode
            and before.size == len(change.content)
            and self._tree.content(before) == change.content
        )


def _is_executable(found: Standing) -> bool:
    if isinstance(found, FileChange):
        return found.executable
    return found is not None and found.kind == "file" and bool((found.mode or 0) & 0o100)


def _missing(path: str) -> NotFound:
    return NotFound(f"There is no file or folder {path[:200]}.")


def _link(path: str, target: str) -> Invalid:
    return Invalid(f"{path[:200]} is a link to {target[:200]}: name the file itself.")


register_level("virtual", VirtualWorkplace, lambda account_id: LevelState(True, SENTENCE))
