"""Supported `Content-Encoding` values of request bodies."""

from typing import Any

from werkzeug.exceptions import UnsupportedMediaType

from models.core.decompression import ALIASES, DECODERS, MAX_ENCODINGS


class UnsupportedEncoding(UnsupportedMediaType):
    """Unsupported encoding: 415, with the supported ones in `Accept-Encoding`."""

    def __init__(self, message: str) -> None:
        supported = ", ".join(DECODERS)
        super().__init__(f"{message} Supported are {supported}, at most {MAX_ENCODINGS} per body.")
        self.accept = supported

    def get_headers(self, *arguments: Any, **options: Any) -> list[tuple[str, str]]:
        """The response headers, with `Accept-Encoding`."""
        return [*super().get_headers(*arguments, **options), ("Accept-Encoding", self.accept)]


def parse_encodings(header: str) -> list[str]:
    """The encodings of a `Content-Encoding` header in order, without `identity`. Raises UnsupportedEncoding."""
    encodings = [ALIASES.get(name, name) for each in header.split(",") if (name := each.strip().lower())]
    encodings = [name for name in encodings if name != "identity"]
    for name in encodings:
        if name not in DECODERS:
            raise UnsupportedEncoding(f"The Content-Encoding {name[:40]!r} is not supported.")
    if len(encodings) > MAX_ENCODINGS:
        raise UnsupportedEncoding("The body has too many encodings.")
    return encodings
