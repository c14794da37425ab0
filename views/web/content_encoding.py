"""Which packed request bodies are taken: what a `Content-Encoding` header may name."""

from typing import Any

from werkzeug.exceptions import UnsupportedMediaType

from models.core.decompression import ALIASES, DECODERS, MOST_CODINGS


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is packed in a way that cannot be unpacked here: 415, with the ways that can in `Accept-Encoding`."""

    def __init__(self, words: str) -> None:
        known = ", ".join(DECODERS)
        super().__init__(f"{words} This server unpacks {known}, at most {MOST_CODINGS} on one body.")
        self.accept = known

    def get_headers(self, *arguments: Any, **options: Any) -> list[tuple[str, str]]:
        """The ways that work, beside the usual headers."""
        return [*super().get_headers(*arguments, **options), ("Accept-Encoding", self.accept)]


def codings(header: str) -> list[str]:
    """What a `Content-Encoding` names, in its order, without `identity`. Raises UnknownCoding."""
    named = [ALIASES.get(name, name) for each in header.split(",") if (name := each.strip().lower())]
    named = [name for name in named if name != "identity"]
    for name in named:
        if name not in DECODERS:
            raise UnsupportedEncoding(f"The Content-Encoding {name[:40]!r} is not known here.")
    if len(named) > MOST_CODINGS:
        raise UnsupportedEncoding("The body is packed too many times.")
    return named
