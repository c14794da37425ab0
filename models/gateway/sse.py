"""Server-sent events, read by the WHATWG standard and written so that every client reads them.

Beyond the standard, three things that providers do: the last event needs no blank line after it; `data:` lines that
are a whole JSON value each are an event each, though no blank line parts them; and JSON without any `data:` is an event
too, whether it is one answer, a list of them, or one on each line.
"""

from typing import NamedTuple

from models.gateway import lenient_json
from models.gateway.upstream import AnswerTooLarge

MAX_EVENT = 32 << 20
"""Bytes of one event: a picture comes in one."""
LINE_COST = 64
"""Bytes that a line takes beside its own."""
MAX_STRAY = 64 << 10
"""Bytes of lines that belong to no event, that are kept and passed on as comments."""

DONE = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"
_JSON = (b"{", b"[")
_WHITE = b" \t\r\n"


class SseEvent(NamedTuple):
    """An event, or a comment (`data` is None). `text` is how it is passed on: framed anew, its data unchanged."""

    data: bytes | None
    text: bytes
    name: bytes = b""


def frame(data: bytes, name: bytes = b"") -> bytes:
    """An event whose data is JSON. Line breaks there are only white space, so that one line is enough."""
    if b"\n" in data:
        data = data.replace(b"\n", b" ")
    return b"event: " + name + b"\ndata: " + data + b"\n\n" if name else b"data: " + data + b"\n\n"


def comment(text: bytes) -> bytes:
    """A comment, which clients pass over."""
    return b"".join(b": " + line + b"\n" for line in _utf8(text).split(b"\n")) + b"\n"


def looks_like_it(begun: bytes) -> bool:
    """Whether a body that begins so is an event stream, whatever its head calls it."""
    return begun.lstrip(_BOM + b" \r\n").startswith((b"data:", b"event:", b"id:", b"retry:", b":"))


def is_done(data: bytes) -> bool:
    """Whether this is the `[DONE]` that ends a stream, however it is spelled."""
    if len(data) > 100 or b"{" in data:
        return False
    word = data.translate(None, b' \t"').upper()
    return word == b"DONE" or word.startswith(b"[DONE]")


class SseParser:
    """Feed it a stream in pieces of any size; the events are the same however it was cut."""

    def __init__(self, provider: str = "The provider") -> None:
        self._provider = provider
        self._begun = False
        self._after_cr = False
        # whether the body may be JSON, going by its first letter; whether it is, over several lines
        self._maybe_json = self._json = False
        # the beginning of a line, in the pieces in which it came
        self._line: list[bytes] = []
        self._line_size = 0
        # the event of which lines have been read
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._stray: list[bytes] = []
        self._stray_size = 0

    @property
    def stray(self) -> bytes:
        """The beginning of what stood on lines that are no field of an event: an error, it may be, that was sent as if it
        were a stream."""
        return b"\n".join(self._stray)

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Take what came; the events that are complete by now. Raises TooLarge."""
        if not self._begun:
            piece = self._begin(piece)
        if self._json:
            if piece:
                self._keep(piece)
            return []
        if self._after_cr and piece:
            self._after_cr = False
            if piece[0] == 10:
                piece = piece[1:]
        if b"\r" in piece:
            self._after_cr = piece[-1] == 13
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[SseEvent] = []
        if self._line or self._data or self._name:
            piece = self._complete(piece, events)
        if not piece:
            return events
        parts = piece.split(b"\n\n")
        rest = parts.pop()
        for part in parts:
            if part.startswith(b"data: {") and b"\n" not in part:
                events.append(SseEvent(part[6:], part + b"\n\n"))
            else:
                for line in part.split(b"\n"):
                    self._take(line, events)
                self._dispatch(events)
        if rest:
            *lines, last = rest.split(b"\n")
            for line in lines:
                self._take(line, events)
            if last:
                self._keep(last)
        return events

    def end(self) -> list[SseEvent]:
        """There is no more. What was left without its blank line is an event all the same."""
        events: list[SseEvent] = []
        if self._line:
            last = self._joined(b"")
            if not self._begun:
                last = last.removeprefix(_BOM)
            if self._json or (self._maybe_json and not self._begun):
                self._whole(last, events)
            elif self._begun or not last.isspace():
                self._take(last, events)
        self._dispatch(events)
        return events

    def _begin(self, piece: bytes) -> bytes:
        """The beginning of the body, read to the end of its first line where that may be JSON."""
        # what tells nothing new is kept without a look at all that was kept before, which may be much
        if self._maybe_json:
            decided = b"\n" in piece or b"\r" in piece
        else:
            decided = self._line_size < len(_BOM) or bool(piece.lstrip(_WHITE))
        if not decided:
            self._keep(piece)
            return b""
        piece = self._joined(piece)
        if len(piece) <= len(_BOM) and _BOM.startswith(piece):
            if piece:
                self._keep(piece)
            return b""
        piece = piece.removeprefix(_BOM)
        found = piece.lstrip(_WHITE)
        if found[:1] in _JSON:
            piece = found
            self._maybe_json = True
        if not found or (self._maybe_json and b"\n" not in piece and b"\r" not in piece):
            self._keep(piece)
            return b""
        self._json = self._maybe_json and not _is_whole(piece.splitlines()[0])
        self._begun = True
        return piece

    def _whole(self, body: bytes, events: list[SseEvent]) -> None:
        """A body that is JSON over several lines, or a list: the events that it would have been as a stream."""
        try:
            value = lenient_json.read(body).value
        except lenient_json.NotJson:
            value = None
        found = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
        if not found:
            for line in body.splitlines():
                self._take(line, events)
        for each in found:
            data = lenient_json.write(each)
            events.append(SseEvent(data, frame(data)))

    def _complete(self, piece: bytes, events: list[SseEvent]) -> bytes:
        """Read on to the end of the event that was begun; what comes after it."""
        start = 0
        while self._line or self._data or self._name:
            end = piece.find(b"\n", start)
            if end < 0:
                if start < len(piece):
                    self._keep(piece[start:])
                return b""
            self._take(self._joined(piece[start:end]), events)
            start = end + 1
        return piece[start:]

    def _joined(self, rest: bytes) -> bytes:
        """A line whose beginning may have been kept."""
        if self._line:
            rest = b"".join((*self._line, rest))
            self._line.clear()
            self._line_size = 0
        return rest

    def _keep(self, begun: bytes) -> None:
        self._line.append(begun)
        self._line_size += len(begun)
        self._check()

    def _check(self) -> None:
        if self._line_size + self._data_size > MAX_EVENT:
            self._line.clear()
            self._data.clear()
            raise AnswerTooLarge(f"{self._provider} sent an event of more than {MAX_EVENT >> 20} MB.")

    def _take(self, line: bytes, events: list[SseEvent]) -> None:
        """One line without its end."""
        if not line:
            self._dispatch(events)
            return
        field, colon, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            if len(self._data) == 1 and _is_whole(self._data[0]):
                name = self._name
                self._dispatch(events)
                self._name = name
            self._data.append(value)
            self._data_size += len(value) + LINE_COST
            self._check()
        elif not field and colon:
            events.append(SseEvent(None, _utf8(line) + b"\n\n"))
        elif field == b"event":
            self._name = _utf8(value)
        elif line[:1] == b"{" and _is_whole(line):
            self._dispatch(events)
            events.append(SseEvent(line, frame(line)))
        elif field not in (b"id", b"retry") and self._stray_size < MAX_STRAY:
            line = line[:MAX_STRAY]
            self._stray.append(line)
            self._stray_size += len(line) + LINE_COST
            events.append(SseEvent(None, comment(line)))

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            if data.strip():
                events.append(SseEvent(data, frame(data, self._name), self._name))
            self._data.clear()
            self._data_size = 0
        self._name = b""


def _is_whole(data: bytes) -> bool:
    if is_done(data):
        return True
    if not data.rstrip().endswith(b"}"):
        return False
    try:
        lenient_json.read(data)
    except lenient_json.NotJson:
        return False
    return True


def _utf8(text: bytes) -> bytes:
    return text.decode("utf-8", "replace").encode()
