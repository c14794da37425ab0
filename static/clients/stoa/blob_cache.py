"""Files by their hash on this computer, so that a tree is fetched once: bounded in bytes, and each checked when it is read."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from stoa.tree_text import sha


class BlobCache:
    """A folder of files named by their SHA-256. Safe for several threads and processes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def has(self, hash: str) -> bool:
        """Whether there is a file of this name."""
        return self._place(hash).is_file()

    def get(self, hash: str) -> bytes | None:
        """The bytes with this hash; None if they are not here, or were changed."""
        place = self._place(hash)
        try:
            data = place.read_bytes()
        except OSError:
            return None
        if sha(data) != hash:
            with suppress(OSError):
                place.unlink()
            return None
        with suppress(OSError):
            os.utime(place)
        return data

    def put(self, hash: str, data: bytes) -> None:
        """Keep bytes, whose hash was checked. Raises OSError."""
        place = self._place(hash)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number, name = tempfile.mkstemp(dir=place.parent)
        try:
            with open(number, "wb") as file:
                file.write(data)
            os.replace(name, place)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def trim(self) -> None:
        """Remove what was not read for longest, until the rest is within the bound."""
        found = []
        for above, _, names in os.walk(self.folder):
            for name in names:
                place = os.path.join(above, name)
                with suppress(OSError):
                    status = os.lstat(place)
                    found.append((status.st_mtime, status.st_size, place))
        left = sum(size for _, size, _ in found)
        for _, size, place in sorted(found):
            if left <= self.most_bytes:
                return
            with suppress(OSError):
                os.unlink(place)
                left -= size

    def _place(self, hash: str) -> Path:
        return self.folder / hash[:2] / hash
