"""Merges texts by lines, by libgit2's three-way merge, in memory."""

from functools import cache
from typing import Any, NamedTuple

MAX_LINE_BYTES = 3 << 20
"""Bytes of the three versions together."""
MAX_LINES = 150_000
"""Lines of the three versions together. Random ones, made to be slow, take a second."""


class LineMerge(NamedTuple):
    """A merged text; with conflict markers if it is not `clean`."""

    data: bytes
    clean: bool


def merge_lines(base: bytes, ours: bytes, theirs: bytes) -> LineMerge:
    """Merge the lines of three texts without NUL bytes. Adjacent changes conflict.

    One call holds the interpreter; it takes milliseconds for thousands of lines, see `MAX_LINES`."""
    if ours == theirs or theirs == base:
        return LineMerge(ours, True)
    if ours == base:
        return LineMerge(theirs, True)
    try:
        for each in (base, ours, theirs):
            each.decode()
    except UnicodeDecodeError:
        # pygit2 decodes its answer as UTF-8. Latin-1 gives every byte a character, and keeps the line ends.
        merged = _merge(*(each.decode("latin-1").encode() for each in (base, ours, theirs)))
        return merged._replace(data=merged.data.decode().encode("latin-1"))
    return _merge(base, ours, theirs)


def _merge(base: bytes, ours: bytes, theirs: bytes) -> LineMerge:
    import pygit2
    from pygit2.enums import FileMode

    backend = _backend()()
    database = pygit2.Odb()
    database.add_backend(backend, 1)
    repository = pygit2.Repository()
    repository.set_odb(database)
    base_entry, ours_entry, theirs_entry = (
        pygit2.IndexEntry(name, backend.add(data), FileMode.BLOB)
        for name, data in (("base", base), ("workspace", ours), ("main", theirs))
    )
    merged = repository.merge_file_from_index(base_entry, ours_entry, theirs_entry, use_deprecated=False)
    return LineMerge(merged.contents.encode(), merged.automergeable)


@cache
def _backend() -> Any:
    """The class of an object store in memory. Defined when it is first needed: most workers never merge."""
    import pygit2
    from pygit2.enums import ObjectType

    class _Memory(pygit2.OdbBackend):
        def __init__(self) -> None:
            super().__init__()
            self.blobs: dict[str, bytes] = {}

        def add(self, data: bytes) -> pygit2.Oid:
            oid = pygit2.hash(data)
            self.blobs[str(oid)] = data
            return oid

        def read_cb(self, oid: pygit2.Oid) -> tuple[int, bytes]:
            return ObjectType.BLOB, self.blobs[str(oid)]

        def read_header_cb(self, oid: pygit2.Oid) -> tuple[int, int]:
            return ObjectType.BLOB, len(self.blobs[str(oid)])

        def exists_cb(self, oid: pygit2.Oid) -> bool:
            return str(oid) in self.blobs

    return _Memory
