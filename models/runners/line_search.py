"""Searching lines of files, bounded in files, bytes and time."""

import time
from collections.abc import Iterable

from models.core.cooperative import TimeSlices
from models.runners.workplace import Matches, SearchMatch

MAX_FILE = 1 << 20
"""Bytes of a file that is searched."""
MAX_FILES = 20_000
MAX_BYTES = 128 << 20
MAX_SECONDS = 10.0
MAX_LINE = 400
"""Characters of a line that are returned."""
_BINARY = 8_192
"""Bytes at the beginning of a file among which a zero says that it is binary."""


class LineSearch:
    """A search for words, whatever their case. Offer it files until it is `over`."""

    def __init__(self, words: str, limit: int) -> None:
        self.found = Matches()
        self._wanted = words.casefold()
        self._limit = max(1, min(limit, 1_000))
        self._until = time.monotonic() + MAX_SECONDS
        self._files = self._bytes = 0
        self._slices = TimeSlices()

    @property
    def over(self) -> bool:
        """Whether a bound is reached. Then `found` is cut."""
        if (
            len(self.found) >= self._limit
            or self._files >= MAX_FILES
            or self._bytes >= MAX_BYTES
            or time.monotonic() > self._until
        ):
            self.found.cut = True
        return self.found.cut

    def offer(self, path: str, content: bytes) -> None:
        """Search a file."""
        self._files += 1
        self._bytes += len(content)
        self._slices.pause()
        if len(content) > MAX_FILE or b"\0" in content[:_BINARY]:
            return
        text = content.decode(errors="replace")
        if self._wanted not in text.casefold():
            return
        self._take(path, text.split("\n"))

    def _take(self, path: str, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines, start=1):
            if self._wanted in line.casefold():
                if len(self.found) >= self._limit:
                    self.found.cut = True
                    return
                self.found.append(SearchMatch(path, number, line.rstrip("\r")[:MAX_LINE]))
