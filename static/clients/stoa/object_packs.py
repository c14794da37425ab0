"""The bytes of files that are not sent or not written yet: a few large files, as thousands of small ones cost more than all else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from stoa.tree_text import sha

HEAD = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,10})\n")
"""What stands before the bytes of each file, here and in the batches of the server: hash and size."""
MOST_HEAD = 76


class ObjectPacks:
    """The packs in a folder. A pack that a crash left is read as far as it is whole, and every file is checked against its hash."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._index: dict[str, tuple[Path, int, int]] | None = None

    def __contains__(self, hash: str) -> bool:
        return hash in self._found()

    def get(self, hash: str) -> bytes | None:
        """The bytes of a file, or None."""
        if hash not in self._found():
            return None
        pack, start, size = self._found()[hash]
        try:
            with open(pack, "rb") as file:
                file.seek(start)
                data = file.read(size)
        except FileNotFoundError:
            data = b""
        if len(data) == size and sha(data) == hash:
            return data
        del self._found()[hash]
        return None

    def add(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Keep these files, hash and bytes, as a new pack: all of them or none."""
        pack = self.place / f"{time.time_ns()}-{os.getpid()}.pack"
        temporary = pack.with_suffix(".new")
        rows = {}
        try:
            with open(temporary, "xb") as out:
                for hash, data in files:
                    out.write(b"%s %d\n" % (hash.encode(), len(data)))
                    rows[hash] = (pack, out.tell(), len(data))
                    out.write(data)
                out.flush()
                os.fsync(out.fileno())
            if rows:
                os.replace(temporary, pack)
        finally:
            temporary.unlink(missing_ok=True)
        self._found().update(rows)

    def clear(self) -> None:
        """Forget all."""
        for each in self.place.iterdir():
            each.unlink()
        self._index = None

    def _found(self) -> dict[str, tuple[Path, int, int]]:
        if self._index is None:
            self._index = {}
            for pack in sorted(self.place.glob("*.pack")):
                self._read(pack, self._index)
        return self._index

    def _read(self, pack: Path, index: dict[str, tuple[Path, int, int]]) -> None:
        with open(pack, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            while head := HEAD.match(file.read(MOST_HEAD)):
                start = file.tell() - len(head.string) + head.end()
                size = int(head[2])
                if start + size > end:
                    return
                index[head[1].decode()] = pack, start, size
                file.seek(start + size)
