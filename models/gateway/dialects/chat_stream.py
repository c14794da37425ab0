"""A stream of chat completion chunks: passed on as it came, but for what some client could not read.

The chunk that is the last one with usage waits for the bill, so that who asked for usage reads last what was charged.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from models.gateway import call_errors, lenient_json, sse
from models.gateway.bill import Bill
from models.gateway.chat_format import Call, ProviderFailure, find_failure, parse_failure
from models.gateway.routing import Route
from models.gateway.sse import SseEvent


class ChatStream:
    """Translates one stream; see `StreamTranslator`. `shown` makes the usage of a bill as the client reads it."""

    def __init__(
        self,
        request_id: str,
        call: Call,
        route: Route,
        shown: Callable[[Bill], Mapping[str, Any]],
        *,
        wants_usage: bool,
    ) -> None:
        self.meter = route.provider.meter(call)
        self.done = False
        self._request_id = request_id
        self._call = call
        self._route = route
        self._shown = shown
        self._wants_usage = wants_usage
        self._parser = sse.SseParser(route.provider.title)
        self._told_usage: Any = None
        self._told_failure: ProviderFailure | None = None
        # the chunk that is the last one with usage unless more comes: it waits for the bill
        self._held: tuple[dict[str, Any], bytes] | None = None

    def feed(self, piece: bytes) -> bytes:
        return self._take(self._parser.feed(piece))

    def end(self, *, cut: bool = False) -> bytes:
        out = self._take(self._parser.end())
        meter = self.meter
        if cut or self.done or not meter.empty or meter.failure is not None:
            return out
        # a body that is no event stream at all: a web page, an error in JSON
        meter.failure = parse_failure(self._parser.stray)
        return out + self._failure(meter.failure, {}, self._parser.stray) if meter.failure else out

    def last_words(self, bill: Bill | None) -> bytes:
        held, self._held = self._held, None
        last = b"" if held is None else self._final(*held, bill)
        return last + self._usage_event(bill)

    def closing(self) -> bytes:
        return sse.DONE

    def error(self, message: str, code: str, kind: str) -> bytes:
        error = {"message": message, "type": kind, "code": code, "param": None}
        return sse.frame(orjson.dumps({"error": error}))

    # -- events ----------------------------------------------------------------------------------------------

    def _take(self, events: list[SseEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.done:
                break
            if event.data is None:
                out.append(self._harmless(event.text))
            else:
                self._event(event.data, event, out)
        return b"".join(out)

    def _event(self, data: bytes, event: SseEvent, out: list[bytes]) -> None:
        """Meter an event, and pass it on."""
        text = event.text
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            if sse.is_done(data):
                self.done = True
                return
            try:
                chunk, read = lenient_json.read(data)
            except lenient_json.NotJson:
                if pieces := lenient_json.split(data):
                    for piece in pieces:
                        if not self.done:
                            self._event(piece, SseEvent(piece, sse.frame(piece, event.name), event.name), out)
                    return
                # no client could read it either: it would raise, and the rest of the answer were lost
                out.append(self._harmless(sse.comment(data)))
                return
            text = sse.frame(read, event.name)
        if not isinstance(chunk, dict):
            self._odd(data, chunk, event, out)
            return
        meter = self.meter
        reported = meter.event(chunk, is_error=event.name == b"error")
        if meter.failure is not self._told_failure and meter.failure is not None:
            out.append(self._failure(meter.failure, chunk, text))
            return
        held = self._held
        if held is not None and held[0].get("choices"):
            # more came, so it was not the last one
            self._held = None
            out.append(self._interim(*held))
        if not isinstance(chunk.get("choices"), list):
            if event.name == b"ping" or chunk.get("type") == "ping":
                out.append(self._harmless(sse.comment(data)))
                return
            # clients read the list without looking
            chunk["choices"] = []
            meter.amended = True
        if meter.amended:
            meter.amended = False
            chunk["object"] = "chat.completion.chunk"
            text = sse.frame(lenient_json.write(chunk), event.name)
        usage = chunk.get("usage")
        if usage is not None and not isinstance(usage, dict):
            chunk["usage"] = dict(meter.raw_usage or {}) if reported else None
            text = sse.frame(lenient_json.write(chunk), event.name)
        if reported or isinstance(usage, dict):
            if meter.finished or not chunk.get("choices"):
                self._held = (chunk, text)
                return
            text = self._interim(chunk, text)
        out.append(text)

    def _odd(self, data: bytes, value: Any, event: SseEvent, out: list[bytes]) -> None:
        """JSON that is no object: the end in quotes, an error in a list, or nothing that a client could use."""
        if sse.is_done(data):
            self.done = True
            return
        failure = find_failure(value, is_error=event.name == b"error")
        if failure is None:
            out.append(self._harmless(sse.comment(data)))
        else:
            self.meter.failure = failure
            out.append(self._failure(failure, {}, event.text))

    def _harmless(self, text: bytes) -> bytes:
        return call_errors.without_keys(text, self._route)

    def _failure(self, failure: ProviderFailure, chunk: dict[str, Any], text: bytes) -> bytes:
        """An error inside the stream: as it came where it has the form that clients know, else in that form."""
        self._told_failure = failure
        route = self._route
        said = call_errors.without_keys(text, route)
        if said != text:
            found = parse_failure(said.split(b"data: ", 1)[-1])
            failure = failure if found is None else found
        told = call_errors.told(failure, failure.status or 502, route, None).failure
        error = chunk.get("error")
        usual = isinstance(error, dict) and error.get("message") == told.message and told is failure
        return said if usual else sse.frame(lenient_json.write({"error": call_errors.error_object(told)}))

    # -- usage -----------------------------------------------------------------------------------------------

    def _interim(self, chunk: dict[str, Any], text: bytes) -> bytes:
        """A chunk with a usage that is not the bill: with it for who asked, else without."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if self._wants_usage:
            self._told_usage = chunk["usage"]
            return text
        return _without_usage(chunk)

    def _final(self, chunk: dict[str, Any], text: bytes, bill: Bill | None) -> bytes:
        """The last chunk with usage, with the usage that was billed."""
        if not isinstance(chunk.get("usage"), dict):
            return text
        if not self._wants_usage or bill is None:
            return _without_usage(chunk)
        shown = self._told_usage = self._shown(bill)
        if shown is chunk["usage"]:
            return text
        return sse.frame(lenient_json.write({**chunk, "usage": shown}))

    def _usage_event(self, bill: Bill | None) -> bytes:
        """A chunk of our own with the usage, where no other told it."""
        if not self._wants_usage or bill is None:
            return b""
        shown = self._shown(bill)
        if shown == self._told_usage:
            return b""
        self._told_usage = shown
        event = {
            "id": self.meter.id or self._request_id,
            "object": "chat.completion.chunk",
            "created": self.meter.created or int(time.time()),
            "model": self.meter.model or self._call.model,
            "choices": [],
            "usage": shown,
        }
        return sse.frame(lenient_json.write(event))


def _without_usage(chunk: dict[str, Any]) -> bytes:
    if not chunk.get("choices"):
        return b""
    return sse.frame(lenient_json.write({key: value for key, value in chunk.items() if key != "usage"}))
