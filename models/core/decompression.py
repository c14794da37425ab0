"""Incremental decompression of HTTP bodies: gzip, deflate, brotli and zstd.

Output comes in bounded chunks, so the caller can stop a decompression bomb by counting bytes.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import brotli  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 65_536
"""Maximum bytes decompressed at a time."""
MAX_ENCODINGS = 2
MAX_MEMBERS = 100
"""Maximum members (gzip) or frames (zstd) of one body; even empty ones cost time."""
ZSTD_WINDOW = 23
"""log2 of 8 MiB, the largest window a sender may require (RFC 9659)."""


class DecompressionError(Exception):
    """The body does not match its `Content-Encoding`."""


class Decompressor(Protocol):
    """Decompresses one member. `feed` returns about a chunk at most; while not `needs_input`, feed `b""` for more."""

    @property
    def needs_input(self) -> bool: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes: ...


def decompress(chunks: Iterable[bytes], encodings: list[str], *, lenient: bool = False) -> Iterable[bytes]:
    """Undo `encodings` on a body; yields chunks. The iterator raises DecompressionError.

    `lenient`: accept, as clients do, a body that is not compressed or is truncated.
    """
    for name in reversed(encodings):
        chunks = _decompress(chunks, DECODERS[name], lenient)
    return chunks


def _decompress(
    chunks: Iterable[bytes], decoder_for: Callable[[int], Decompressor], lenient: bool
) -> Iterator[bytes]:
    decoder, members, consumed, unverified = None, 0, b"", lenient
    chunks = iter(chunks)
    for chunk in chunks:
        data = chunk
        while data or (decoder is not None and not decoder.needs_input):
            if decoder is None:
                data = data.lstrip(b"\0") if members else data  # zero padding between gzip members
                if not data:
                    break
                members += 1
                if members > MAX_MEMBERS:
                    raise DecompressionError("the compressed body has too many members")
                decoder = decoder_for(data[0])
            consumed += data if unverified else b""
            try:
                out = decoder.feed(data)
            except (zlib.error, brotli.error, zstd.ZstdError) as error:
                if unverified:
                    yield consumed
                    yield from chunks
                    return
                raise DecompressionError(f"the compressed body is invalid: {error}") from None
            data = b""
            if out:
                unverified, consumed = False, b""
                yield out
            if decoder.eof:
                data, decoder = decoder.unused_data, None
    if decoder is not None and not lenient:
        raise DecompressionError("the compressed body is truncated")


class _Zlib:
    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)
        self._full = False

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, CHUNK_BYTES)
        self._full = len(out) == CHUNK_BYTES
        return out


class _Brotli:
    unused_data = b""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self._full = False

    @property
    def needs_input(self) -> bool:
        return not self._full and bool(self._inner.can_accept_more_data())

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    def feed(self, data: bytes) -> bytes:
        out: bytes = self._inner.process(data, output_buffer_limit=CHUNK_BYTES)
        self._full = len(out) >= CHUNK_BYTES
        return out


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._inner.decompress(data, CHUNK_BYTES)


def _deflate(first: int) -> Decompressor:
    # Some senders omit the zlib header that the standard requires; the low nibble of its first byte is 8.
    return _Zlib(zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS)


DECODERS: dict[str, Callable[[int], Decompressor]] = {
    "gzip": lambda _first: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": _deflate,
    "br": lambda _first: _Brotli(),
    "zstd": lambda _first: _Zstd(),
}
"""Decompressor factories by encoding name; the argument is the first byte of the data."""
ALIASES = {"x-gzip": "gzip"}
