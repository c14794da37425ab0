"""ZIP files as a stream of bytes, in constant memory."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import RawIOBase
from typing import Any


class _Sink(RawIOBase):
    """Collects what the ZIP writer writes until it is sent."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def drain(self) -> bytes:
        """Return and forget what was written."""
        parts, self.parts = self.parts, []
        return b"".join(parts)


def zipped(files: Mapping[str, Iterable[str]]) -> Iterator[bytes]:
    """The bytes of a ZIP file with these files, each in chunks of text."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, chunks in files.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for chunk in chunks:
                    file.write(chunk.encode())
                    if sent := sink.drain():
                        yield sent
    yield sink.drain()
