"""Server-sent events: parsed by the WHATWG standard, and written so that every client can read them.

Three extensions for what providers send: the last event needs no blank line; consecutive `data:` lines that are complete
JSON values are one event each; and JSON without `data:` is an event, be it one object, a list, or one object per line.
"""

from typing import NamedTuple

from models.gateway import lenient_json
from models.gateway.upstream import AnswerTooLarge

MAX_EVENT = 32 << 20
"""Largest event, in bytes: one event may contain an image."""
LINE_OVERHEAD = 64
"""Bytes of memory per line in addition to its text."""
MAX_STRAY = 64 << 10
"""Largest total of lines outside any event, which are kept and passed on as comments, in bytes."""

DONE = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"
_JSON = (b"{", b"[")
_WHITE = b" \t\r\n"


class SseEvent(NamedTuple):
    """An event, or a comment (`data` is None). `text` is the event to pass on: framed again, its data unchanged."""

    data: bytes | None
    text: bytes
    name: bytes = b""


def frame(data: bytes, name: bytes = b"") -> bytes:
    """Format an event whose data is JSON, on one line: line breaks in JSON are white space."""
    if b"\n" in data:
        data = data.replace(b"\n", b" ")
    return b"event: " + name + b"\ndata: " + data + b"\n\n" if name else b"data: " + data + b"\n\n"


def comment(text: bytes) -> bytes:
    """Format a comment, which clients ignore."""
    return b"".join(b": " + line + b"\n" for line in _utf8(text).split(b"\n")) + b"\n"


def looks_like_sse(start: bytes) -> bool:
    """Whether a body that begins with these bytes is an event stream, whatever its `Content-Type`."""
    return start.lstrip(_BOM + b" \r\n").startswith((b"data:", b"event:", b"id:", b"retry:", b":"))


def is_done(data: bytes) -> bool:
    """Whether this is the `[DONE]` that ends a stream, in any spelling."""
    if len(data) > 100 or b"{" in data:
        return False
    word = data.translate(None, b' \t"').upper()
    return word == b"DONE" or word.startswith(b"[DONE]")


class SseParser:
    """Incremental parser. Chunk boundaries do not affect the events."""

    def __init__(self, provider: str = "The provider") -> None:
        self._provider = provider
        self._started = False
        self._after_cr = False
        # whether the body starts like JSON; whether it is JSON over several lines
        self._maybe_json = self._json = False
        # the chunks of an incomplete line
        self._line: list[bytes] = []
        self._line_size = 0
        # the incomplete event
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._stray: list[bytes] = []
        self._stray_size = 0

    @property
    def stray(self) -> bytes:
        """The first lines that are no field of an event, up to MAX_STRAY bytes: possibly an error sent as a stream."""
        return b"\n".join(self._stray)

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Parse a chunk. Returns the events it completes. Raises AnswerTooLarge."""
        if not self._started:
            chunk = self._read_start(chunk)
        if self._json:
            if chunk:
                self._buffer(chunk)
            return []
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == 13
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[SseEvent] = []
        if self._line or self._data or self._name:
            chunk = self._finish_event(chunk, events)
        if not chunk:
            return events
        parts = chunk.split(b"\n\n")
        rest = parts.pop()
        for part in parts:
            if part.startswith(b"data: {") and b"\n" not in part:
                events.append(SseEvent(part[6:], part + b"\n\n"))
            else:
                for line in part.split(b"\n"):
                    self._parse_line(line, events)
                self._dispatch(events)
        if rest:
            *lines, last = rest.split(b"\n")
            for line in lines:
                self._parse_line(line, events)
            if last:
                self._buffer(last)
        return events

    def end(self) -> list[SseEvent]:
        """End the stream. Returns the remaining events, including a last one without its blank line."""
        events: list[SseEvent] = []
        if self._line:
            last = self._flush_line(b"")
            if not self._started:
                last = last.removeprefix(_BOM)
            if self._json or (self._maybe_json and not self._started):
                self._parse_json_body(last, events)
            elif self._started or not last.isspace():
                self._parse_line(last, events)
        self._dispatch(events)
        return events

    def _read_start(self, chunk: bytes) -> bytes:
        """Read the start of the body, up to the end of its first line if that may be JSON."""
        # buffer a chunk that decides nothing without joining it to all chunks before, which may be long
        if self._maybe_json:
            decided = b"\n" in chunk or b"\r" in chunk
        else:
            decided = self._line_size < len(_BOM) or bool(chunk.lstrip(_WHITE))
        if not decided:
            self._buffer(chunk)
            return b""
        chunk = self._flush_line(chunk)
        if len(chunk) <= len(_BOM) and _BOM.startswith(chunk):
            if chunk:
                self._buffer(chunk)
            return b""
        chunk = chunk.removeprefix(_BOM)
        stripped = chunk.lstrip(_WHITE)
        if stripped[:1] in _JSON:
            chunk = stripped
            self._maybe_json = True
        if not stripped or (self._maybe_json and b"\n" not in chunk and b"\r" not in chunk):
            self._buffer(chunk)
            return b""
        self._json = self._maybe_json and not _is_complete(chunk.splitlines()[0])
        self._started = True
        return chunk

    def _parse_json_body(self, body: bytes, events: list[SseEvent]) -> None:
        """Convert a body that is JSON over several lines, or a list, to the events of a stream."""
        try:
            value = lenient_json.read(body).value
        except lenient_json.NotJson:
            value = None
        objects = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
        if not objects:
            for line in body.splitlines():
                self._parse_line(line, events)
        for each in objects:
            data = lenient_json.write(each)
            events.append(SseEvent(data, frame(data)))

    def _finish_event(self, chunk: bytes, events: list[SseEvent]) -> bytes:
        """Parse up to the end of the incomplete event. Returns the rest of the chunk."""
        start = 0
        while self._line or self._data or self._name:
            end = chunk.find(b"\n", start)
            if end < 0:
                if start < len(chunk):
                    self._buffer(chunk[start:])
                return b""
            self._parse_line(self._flush_line(chunk[start:end]), events)
            start = end + 1
        return chunk[start:]

    def _flush_line(self, rest: bytes) -> bytes:
        """The buffered start of a line joined with its rest."""
        if self._line:
            rest = b"".join((*self._line, rest))
            self._line.clear()
            self._line_size = 0
        return rest

    def _buffer(self, part: bytes) -> None:
        self._line.append(part)
        self._line_size += len(part)
        self._check_size()

    def _check_size(self) -> None:
        if self._line_size + self._data_size > MAX_EVENT:
            self._line.clear()
            self._data.clear()
            raise AnswerTooLarge(f"{self._provider} sent an event of more than {MAX_EVENT >> 20} MB.")

    def _parse_line(self, line: bytes, events: list[SseEvent]) -> None:
        """Parse one line, without its line break."""
        if not line:
            self._dispatch(events)
            return
        field, colon, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            if len(self._data) == 1 and _is_complete(self._data[0]):
                name = self._name
                self._dispatch(events)
                self._name = name
            self._data.append(value)
            self._data_size += len(value) + LINE_OVERHEAD
            self._check_size()
        elif not field and colon:
            events.append(SseEvent(None, _utf8(line) + b"\n\n"))
        elif field == b"event":
            self._name = _utf8(value)
        elif line[:1] == b"{" and _is_complete(line):
            self._dispatch(events)
            events.append(SseEvent(line, frame(line)))
        elif field not in (b"id", b"retry") and self._stray_size < MAX_STRAY:
            line = line[:MAX_STRAY]
            self._stray.append(line)
            self._stray_size += len(line) + LINE_OVERHEAD
            events.append(SseEvent(None, comment(line)))

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            if data.strip():
                events.append(SseEvent(data, frame(data, self._name), self._name))
            self._data.clear()
            self._data_size = 0
        self._name = b""


def _is_complete(data: bytes) -> bool:
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
