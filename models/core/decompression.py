"""Unpacking bodies that were compressed on their way, piece by piece: no bomb gets further than one piece.

gzip, deflate, brotli and zstd. Whoever takes the pieces counts them.
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

PIECE = 65_536
"""Bytes that are unpacked at a time."""
MOST_CODINGS = 2
MOST_MEMBERS = 100
"""Parts of one gzip or zstd body; each costs something even when it is empty."""
ZSTD_WINDOW = 23
"""8 MiB as a power of two, the most that a sender may ask for (RFC 9659)."""


class DecompressionError(Exception):
    """The body is not what its `Content-Encoding` says."""


class Decompressor(Protocol):
    """Unpacks one part. `feed` gives at most about a piece; when it is not `hungry`, feed it nothing for more."""

    @property
    def hungry(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes: ...


def unpacked(pieces: Iterable[bytes], named: list[str], *, lenient: bool = False) -> Iterable[bytes]:
    """The pieces of a body as they were before `named` was done to them. The iterator raises BadCoding.

    `lenient`: a body that is not packed after all, or lacks the end of its packing, is taken as clients take it.
    """
    for name in reversed(named):
        pieces = _unpacked(pieces, DECODERS[name], lenient)
    return pieces


def _unpacked(
    pieces: Iterable[bytes], decoder_for: Callable[[int], Decompressor], lenient: bool
) -> Iterator[bytes]:
    decoder, members, begun, doubtful = None, 0, b"", lenient
    pieces = iter(pieces)
    for piece in pieces:
        data = piece
        while data or (decoder is not None and not decoder.hungry):
            if decoder is None:
                data = data.lstrip(b"\0") if members else data  # gzip may be padded
                if not data:
                    break
                members += 1
                if members > MOST_MEMBERS:
                    raise DecompressionError("the packed body has too many parts")
                decoder = decoder_for(data[0])
            begun += data if doubtful else b""
            try:
                out = decoder.feed(data)
            except (zlib.error, brotli.error, zstd.ZstdError) as error:
                if doubtful:
                    yield begun
                    yield from pieces
                    return
                raise DecompressionError(f"the packed body is broken: {error}") from None
            data = b""
            if out:
                doubtful, begun = False, b""
                yield out
            if decoder.ended:
                data, decoder = decoder.rest, None
    if decoder is not None and not lenient:
        raise DecompressionError("the packed body ends too early")


class _Zlib:
    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)
        self._full = False

    @property
    def hungry(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, PIECE)
        self._full = len(out) == PIECE
        return out


class _Brotli:
    rest = b""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self._full = False

    @property
    def hungry(self) -> bool:
        return not self._full and bool(self._inner.can_accept_more_data())

    @property
    def ended(self) -> bool:
        return bool(self._inner.is_finished())

    def feed(self, data: bytes) -> bytes:
        out: bytes = self._inner.process(data, output_buffer_limit=PIECE)
        self._full = len(out) >= PIECE
        return out


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})

    @property
    def hungry(self) -> bool:
        return self._inner.needs_input

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._inner.decompress(data, PIECE)


def _deflate(first: int) -> Decompressor:
    # Some senders leave out the zlib header that the standard asks for; its first byte ends in 8.
    return _Zlib(zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS)


DECODERS: dict[str, Callable[[int], Decompressor]] = {
    "gzip": lambda _first: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": _deflate,
    "br": lambda _first: _Brotli(),
    "zstd": lambda _first: _Zstd(),
}
"""By name; each is told the first byte of what it is to unpack."""
ALIASES = {"x-gzip": "gzip"}
