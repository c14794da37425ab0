"""Request bodies that were compressed on their way, unpacked piece by piece: no bomb gets further than one piece.

gzip, deflate, brotli and zstd, at most two of them one on the other. Whoever takes the pieces counts them.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import brotli  # type: ignore[import-untyped]
from werkzeug.exceptions import UnsupportedMediaType

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


class BadCoding(Exception):
    """The body is not what its `Content-Encoding` says."""


class UnknownCoding(UnsupportedMediaType):
    """The body is packed in a way that cannot be unpacked here: 415, with the ways that can in `Accept-Encoding`."""

    def __init__(self, words: str) -> None:
        known = ", ".join(DECODERS)
        super().__init__(f"{words} This server unpacks {known}, at most {MOST_CODINGS} on one body.")
        self.accept = known

    def get_headers(self, *arguments: Any, **options: Any) -> list[tuple[str, str]]:
        """The ways that work, beside the usual headers."""
        return [*super().get_headers(*arguments, **options), ("Accept-Encoding", self.accept)]


class Decoder(Protocol):
    """Unpacks one part. `feed` gives at most about a piece; when it is not `hungry`, feed it nothing for more."""

    @property
    def hungry(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes: ...


def codings(header: str) -> list[str]:
    """What a `Content-Encoding` names, in its order, without `identity`. Raises UnknownCoding."""
    named = [_ALIASES.get(name, name) for each in header.split(",") if (name := each.strip().lower())]
    named = [name for name in named if name != "identity"]
    for name in named:
        if name not in DECODERS:
            raise UnknownCoding(f"The Content-Encoding {name[:40]!r} is not known here.")
    if len(named) > MOST_CODINGS:
        raise UnknownCoding("The body is packed too many times.")
    return named


def unpacked(pieces: Iterable[bytes], named: list[str]) -> Iterable[bytes]:
    """The pieces of a body as they were before `named` was done to them. The iterator raises BadCoding."""
    for name in reversed(named):
        pieces = _unpacked(pieces, DECODERS[name])
    return pieces


def _unpacked(pieces: Iterable[bytes], decoder_for: Callable[[int], Decoder]) -> Iterator[bytes]:
    decoder, members = None, 0
    for piece in pieces:
        data = piece
        while data or (decoder is not None and not decoder.hungry):
            if decoder is None:
                data = data.lstrip(b"\0") if members else data  # gzip may be padded
                if not data:
                    break
                members += 1
                if members > MOST_MEMBERS:
                    raise BadCoding("the packed body has too many parts")
                decoder = decoder_for(data[0])
            try:
                out = decoder.feed(data)
            except (zlib.error, brotli.error, zstd.ZstdError) as error:
                raise BadCoding(f"the packed body is broken: {error}") from None
            data = b""
            if out:
                yield out
            if decoder.ended:
                data, decoder = decoder.rest, None
    if decoder is not None:
        raise BadCoding("the packed body ends too early")


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


def _deflate(first: int) -> Decoder:
    # Some senders leave out the zlib header that the standard asks for; its first byte ends in 8.
    return _Zlib(zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS)


DECODERS: dict[str, Callable[[int], Decoder]] = {
    "gzip": lambda _first: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": _deflate,
    "br": lambda _first: _Brotli(),
    "zstd": lambda _first: _Zstd(),
}
"""By name; each is told the first byte of what it is to unpack."""
_ALIASES = {"x-gzip": "gzip"}
